"""AdapterFusion; what it has in common with adapters is in test_adapters.py."""

from __future__ import annotations

import pytest
import torch

from mtlcli.models.forward_pass import ForwardPass, running
from mtlcli.sharing.adapter_fusion import AdapterFusionSharing
from tests.small import small_model
from tests.unit.sharing.test_adapters import shaken, trunk
from tests.unit.sharing.training import batch_of


def test_fusion_mixes_by_its_formula_and_reads_others_without_training_them() -> None:
    ours = trunk("adapter_fusion", "bert")
    shaken(ours)
    layer = next(module for module in ours.modules() if hasattr(module, "fusions"))
    hidden = torch.randn(2, 5, 32)
    with running(ForwardPass([("other", 2)], torch.ones(2, 5, dtype=torch.bool))):
        mixed = layer._mix(hidden)  # type: ignore[operator]
    fusion = layer.fusions["other"]  # type: ignore[union-attr, index]
    each = torch.stack([adapter(hidden) for adapter in layer.adapters.values()], 2)  # type: ignore[union-attr, operator]
    scores = (fusion.query(hidden).unsqueeze(2) * fusion.key(each)).sum(-1) / 2
    shares = scores.softmax(-1)
    assert (shares - 0.5).abs().max() > 0.05
    assert torch.allclose(mixed, (shares.unsqueeze(-1) * each).sum(2), atol=1e-5)
    mixed.sum().backward()
    trained_adapters = {
        name for name, adapter in layer.adapters.items() if adapter.down.weight.grad is not None
    }  # type: ignore[union-attr, operator]
    assert trained_adapters == {"other"}


def test_statistics_hold_how_much_tasks_read_of_one_another() -> None:
    model, _ = small_model(AdapterFusionSharing(size=8, keys=4))
    even = {name: pytest.approx(1 / 3) for name in model.tasks}
    assert model.trunk.measures() == {"attention": dict.fromkeys(model.tasks, even)}
    shaken(model)
    model.eval()
    model("cola", batch_of("cola"))
    assert model.trunk.measures()["attention"]["cola"] == even
    model.train()
    model("cola", batch_of("cola"))
    told = model.trunk.measures()["attention"]
    assert (
        told["cola"] != even
        and sum(told["cola"].values()) == pytest.approx(1)
        and told["stsb"] == even
    )
