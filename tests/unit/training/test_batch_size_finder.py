"""`runner.max_tokens=auto`: what is found fits, uses what is there and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import RunError
from mtlcli.training import batch_size_finder as fit
from tests.small import small_data, small_model

ALONE = Ranks(0, 1, torch.device("cpu"))


def largest(**options: Any) -> tuple[int, str]:
    model, weighting = small_model("hard")
    features = small_data()[2]
    settings = {
        "input_format": InputFormat(0, True),
        "bf16": False,
        "accumulation": 1,
        "ranks": ALONE,
    } | options
    return fit.largest_batch(model, weighting, features, dict.fromkeys(features, 8), **settings)


def test_the_limit_is_the_largest_possible_batch_if_everything_fits() -> None:
    longest = max(int(each.lengths.max()) for each in small_data()[2].values())
    assert largest()[0] == largest(accumulation=4)[0] == 8 * longest


def test_the_search_leaves_the_model_and_generators_as_they_were() -> None:
    for sharing in ("hard", "attention", "mmoe"):
        model, weighting = small_model(sharing)
        features = small_data()[2]
        before, drawn = (
            {name: each.clone() for name, each in model.state_dict().items()},
            torch.random.get_rng_state(),
        )
        fit.largest_batch(
            *(model, weighting, features, dict.fromkeys(features, 8)),
            input_format=InputFormat(0, True),
            bf16=False,
            accumulation=1,
            ranks=ALONE,
        )
        assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
        assert torch.equal(torch.random.get_rng_state(), drawn)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_an_input_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "free_memory", lambda device: 2**20)
    with pytest.raises(
        RunError,
        match=r"one input of cola with \d+ tokens needs .* is left for inputs\n    -> lower "
        r"data.max_length",
    ):
        largest()


def test_the_memory_that_is_free_is_what_the_system_says() -> None:
    free = fit.free_memory(torch.device("cpu"))
    total = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert 2**26 < free < total


def test_ranks_of_one_machine_divide_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = fit.free_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert fit.free_memory(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.2)
