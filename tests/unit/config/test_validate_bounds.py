"""Numbers beyond all sense are refused before a run, whatever key they are given for; seeds of any
size work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mtlcli.config import augmentations, optims, samplings, sharings, task_types, weightings
from mtlcli.config.run import Data, Logger, Model, Runner
from mtlcli.config.schema import is_number
from mtlcli.config.section import hints
from mtlcli.config.validate import LARGEST, check
from mtlcli.distributed.process_group import Ranks
from mtlcli.seeds import folded
from mtlcli.training.trainer import seed_dropout
from mtlcli.weighting.base import Step

SECOND = Ranks(1, 2, torch.device("cpu"))
SECTIONS: dict[str, Any] = {"model": Model, "data": Data, "runner": Runner, "logger": Logger}
TASK = {"type": "classification", "columns": {"text": "a"}, "source": {"path": "x"}}
METHODS = {
    "sharing": {"name": "hard"},
    "weighting": {"name": "static"},
    "sampling": {"name": "proportional"},
}
NO_NUMBER_ALONE = {"layers", "tasks", "stages", "lengths", "betas", "range", "modules"}
"""Keys that hold lists or words beside numbers."""


def given(section: Any, value: float) -> dict[str, Any]:
    """The value for every key of a section that holds a number."""
    return {
        name: value
        for name, hint in hints(section).items()
        if is_number(hint) and name not in NO_NUMBER_ALONE and hint is not bool
    }


def refused(values: dict[str, Any]) -> set[str]:
    config, problems = check({"tasks": {"mine": TASK}} | METHODS | values)
    assert config is None
    return {
        problem.where
        for problem in problems
        if "must be" in problem.what or "is not one of" in problem.what
    }


@pytest.mark.parametrize("value", [1e300, 10**20, float("inf"), float("nan"), 2**63])
def test_numbers_of_the_sections(value: float) -> None:
    values = {name: given(section, value) for name, section in SECTIONS.items()}
    keys = {f"{name}.{key}" for name, found in values.items() for key in found}
    # A run that diverges at a senseless learning rate is stopped by its losses; beyond 1e30 single
    # precision overflows.
    allowed = {"model.lr", "model.scratch_lr"} if value <= 1e30 else set()
    assert len(keys) >= 30 and keys - allowed <= refused(values)


@pytest.mark.parametrize(
    ("part", "registry"),
    [
        ("sharing", sharings),
        ("weighting", weightings),
        ("sampling", samplings),
        ("augmentation", augmentations),
        ("optim", optims),
        ("tasks.mine", task_types),
    ],
)
def test_numbers_of_methods_and_tasks(part: str, registry: Any) -> None:
    for name, section in registry.configs.items():
        numbers = given(section, 1e300)
        if part == "tasks.mine":
            values: dict[str, Any] = {"tasks": {"mine": TASK | {"type": name} | numbers}}
        else:
            values = {part: {"name": name} | numbers}
        if numbers:
            assert {f"{part}.{key}" for key in numbers} <= refused(values), name


def test_bounds_are_shown_in_full() -> None:
    _, problems = check(
        {"tasks": {"mine": TASK}, "runner": {"steps": 10**400, "threads": 100_000}} | METHODS
    )
    assert [f"{problem.where}: {problem.what}" for problem in problems] == [
        f"runner.steps: must be at most {LARGEST}, found a number of more than 300 digits",
        "runner.threads: must be at most 1024, found 100000",
    ]


@pytest.mark.parametrize("seed", [0, 7, 1_795_689_600_000, 2**63 - 1, 2**64, 10**20, 2**128 - 1])
def test_every_allowed_seed_works(seed: int) -> None:
    seed_dropout(seed, 3, SECOND)
    first = torch.rand(2)
    seed_dropout(seed + 1, 3, SECOND)
    assert not torch.equal(first, torch.rand(2))
    Step(3, 10, 0, seed, ["a"]).generator()
    assert 0 <= folded(seed) < 2**63
    assert check({"tasks": {"mine": TASK}, "seed": seed} | METHODS)[0] is not None


def test_seeds_that_fit_a_generator_are_not_changed() -> None:
    assert folded(12345) == 12345
    torch.manual_seed((7 * 1_000_003 + 3) * 4096 + 1)
    expected = torch.rand(2)
    seed_dropout(7, 3, SECOND)
    assert torch.equal(torch.rand(2), expected)
