"""scripts/bench/speed.py: batches that stand for an epoch, counts of operations, the speed that the
rows of a run tell, and the file with the sections of several hosts."""

from __future__ import annotations

from importlib import import_module
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
from mtlcli.fast.mixin import put_on
from mtlcli.models.forward_pass import ForwardPass, running

FOLDER = Path(__file__).parents[3] / "scripts" / "bench"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a script, its folder is where modules are looked for."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def speed_data() -> ModuleType:
    return import_module("speed_data")


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
    put_on(FirstToken, model.encoder.layer[-1], first_token_heads={"cola"})
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


def test_the_speed_of_a_run_is_that_of_the_rows_that_count() -> None:
    rows = [
        {"step": step, "tasks": {"rte": {"examples": 40}, "cola": {"examples": 40}}}
        | {"examples_per_s": rate, "tokens_per_s": 10 * rate, "padding": 0.2}
        for step, rate in ((5, 8.0), (10, 40.0), (15, 80.0))
    ]
    found = import_module("speed_run").speed(rows, 1)
    assert (found.steps, found.examples, found.seconds) == (10, 160, 3.0)
    assert (found.tokens, found.padded) == pytest.approx((1600, 2000))


def test_sections_of_other_hosts_stay(tmp_path: Path) -> None:
    script: Any = import_module("speed")
    out = tmp_path / "speed.md"
    for heading, text in (
        ("GPU (H100)", "one"),
        ("Ranks (AVX2)", "two"),
        ("GPU (A100)", "three"),
        ("GPU (H100)", "four"),
    ):
        script.write(out, {heading: f"\n{text}\n"})
    parts = out.read_text().split("\n## ")[1:]
    assert [part.split() for part in parts] == [
        ["Ranks", "(AVX2)", "two"],
        ["GPU", "(A100)", "three"],
        ["GPU", "(H100)", "four"],
    ]
    written = (FOLDER / "speed.md").read_text()
    out.write_text(written)
    script.write(out, {})
    assert out.read_text() == written, "the script would change what it has written itself"


def test_sections_for_a_gpu_are_not_measured_elsewhere() -> None:
    script: Any = import_module("speed")
    assert ("gpu" in script.usual()) == torch.cuda.is_available()
    assert set(script.usual()) | {"amx", "gpu"} == set(script.SECTIONS)
