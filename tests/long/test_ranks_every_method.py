"""Every weighting and every sharing on two real gloo ranks, and steps of every shape: the same
parameters to the bit on both, those of one process within 1e-5."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mtlcli.config import samplings, weightings
from tests.long.ranks_every_method import main, variants
from tests.ranks import launched
from tests.warm import start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and two ranks trained."""
    place = tmp_path_factory.mktemp("methods")
    started = [
        start(before=partial(main, str(place)), **environment)
        for environment in (*launched(1), *launched(2))
    ]
    for process in started:
        assert process.wait(500) == 0, process.stderr
    return place


def difference(folder: Path, label: str) -> dict[str, int]:
    """How many numbers of each parameter differ between one process and two ranks."""
    alone, first, second = (
        load_file(folder / f"{label}-{rank}-{world}.safetensors")
        for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    tolerance = 2e-3 if "bf16" in label else 1e-5
    assert all(torch.equal(value, second[name]) for name, value in first.items()), label
    off = {
        name: int(((value - alone[name]).abs() > tolerance).sum()) for name, value in first.items()
    }
    # GradDrop keeps a number where it is larger than a random one: rounding may turn one or another
    # over.
    allowed = 1e-4 * sum(value.numel() for value in first.values()) if label == "graddrop" else 0
    return {name: count for name, count in off.items() if count and sum(off.values()) > allowed}


def test_two_ranks_are_one(folder: Path) -> None:
    found = {label: difference(folder, label) for label in variants()}
    assert {label: off for label, off in found.items() if off} == {}


def test_torch_sums_wherever_gradients_are_added_up(folder: Path) -> None:
    """Twice the explicit sums would give the same parameters."""
    alone, first, second = (
        json.loads((folder / f"summed-{rank}-{world}.json").read_text())
        for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    assert not alone and first == second
    for label, variant in variants().items():
        if variant.sharded:
            assert label not in first, label
        elif variant.weighting == "static":
            # These have no parameter that all tasks use.
            none_owned = variant.sharing in ("none", "soft", "progressive")
            assert (first[label] == 0) == none_owned, label
        elif weightings.implementation(variant.weighting).balances_gradients:
            assert first[label] == 0, label
    for label in ("hard one task a step", "hard uneven", "accumulation", "probe"):
        assert first[label] == 20, label


def test_every_sampling_plans_the_same_on_every_rank(folder: Path) -> None:
    alone, first, second = (
        json.loads((folder / f"plans-{rank}-{world}.json").read_text())
        for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    assert alone == first == second and list(alone) == list(samplings)


def test_every_weighting_learns_otherwise(folder: Path) -> None:
    """Weightings that all did the same would pass the test above."""
    trained = {label: load_file(folder / f"{label}-0-1.safetensors") for label in weightings}
    base = trained.pop("static")
    for label, values in trained.items():
        assert max((values[name] - base[name]).abs().max().item() for name in base) > 1e-6, label
