"""The mathematics of scripts/bench/speed.py: batches that stand for an epoch, and counts of
operations."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from mtlcli.fast.first_token import FirstToken
from mtlcli.models.forward_pass import ForwardPass, running

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench" / "speed_data.py"


@pytest.fixture(scope="module")
def speed_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_data", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_operations_are_those_that_torch_counts(speed_data: Any) -> None:
    config = BertConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=50,
    )
    model = BertModel(config, add_pooling_layer=False)
    batch, length = 2, 7
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.ones(batch, length, dtype=torch.long)).last_hidden_state.sum().backward()
    expected = counter.get_total_flops() / batch
    assert speed_data.flops_per_example(config.to_dict(), np.array([length] * batch)) == expected
    FirstToken.put_on(model.encoder.layer[-1], {"cola"})
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ids = torch.ones(batch, length, dtype=torch.long)
        with running(ForwardPass([("cola", batch)], ids.bool())):
            model(ids).last_hidden_state.sum().backward()
    expected = counter.get_total_flops() / batch
    assert (
        speed_data.flops_per_example(config.to_dict(), np.array([length] * batch), first_token=True)
        == expected
    )


def test_representative_batches_have_the_mean_of_all(speed_data: Any) -> None:
    sizes = np.random.default_rng(0).lognormal(5, 0.7, 2000).astype(np.int64)
    for count in (2, 3, 5):
        chosen = speed_data.representative(sizes, count)
        assert len(chosen) == count
        assert sizes[chosen].mean() == pytest.approx(sizes.mean(), rel=0.01)
    assert sorted(speed_data.representative(sizes[:3], 5)) == [0, 1, 2]


def test_an_epoch_of_the_trainer_meets_every_example_once(speed_data: Any) -> None:
    lengths = np.random.default_rng(0).integers(5, 128, 1000)
    plain, grouped = (
        speed_data.trainer_epoch(lengths, 32, grouped=grouped) for grouped in (False, True)
    )
    for epoch in (plain, grouped):
        assert epoch.shape == (31, 32)
        assert len(np.unique(epoch)) == epoch.size
    padded = [int(lengths[epoch].max(1).sum() * 32) for epoch in (plain, grouped)]
    assert padded[1] < padded[0]
