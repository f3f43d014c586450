"""LoRA; what it has in common with adapters is in test_adapters.py."""

from __future__ import annotations

import pytest
import torch

from mtlcli.sharing.lora import LoRASharing
from tests.families import family_backbone, family_batch
from tests.small import small_model
from tests.unit.config.test_crosscheck import PAIR, run, said
from tests.unit.sharing.test_adapters import own, shaken, trunk


def test_lora_changes_matrices_by_its_formula() -> None:
    batch = family_batch()
    ours, plain = trunk("lora", "bert"), family_backbone("bert")
    shaken(ours)
    factors = own(ours)
    with torch.no_grad():
        for name, module in plain.network.named_modules():
            if isinstance(module, torch.nn.Linear):
                one, other = (
                    factors[f"backbone.network.{name}.lora_{kind}.other.weight"] for kind in "AB"
                )
                module.weight += 16.0 / 2 * other @ one
        assert torch.allclose(ours("other", batch).hidden, plain(batch).hidden, atol=1e-4)
    changed = {name.split(".")[7] for name in own(small_model(LoRASharing())[0].trunk)}
    assert changed == {"query", "value"}


def test_a_missing_peft_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlcli.sharing.lora.find_spec", lambda name: None)
    assert said(run(PAIR, sharing={"name": "lora"})) == [
        "sharing: sharing=lora needs the package peft, which is not installed -> type pip install "
        "'mtlcli[lora]'"
    ]
