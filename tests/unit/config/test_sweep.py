"""Settings of a search that do not fit together."""

from __future__ import annotations

from typing import Any

import pytest

from mtlcli.config import Sweep

RANGE = {"optim.lr": {"low": 0.1, "high": 1.0}}


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({}, []),
        ({"trials": 3}, ["sweep.trials: the value has no effect with sweep=grid"]),
        ({"name": "random", "space": RANGE | {"seed": [0, 1]}}, []),
        ({"name": "random"}, ["sweep.space: there is nothing to search"]),
        (
            {"name": "random", "space": {"seed": 3}},
            ["sweep.space: seed: must be a list of values or a range"],
        ),
        (
            {"name": "random", "space": {"seed": []}},
            ["sweep.space: seed: a list holds one or more values"],
        ),
        (
            {"name": "random", "space": {"data.fold": [0]}},
            ["sweep.space: data.fold: is not a value of a single trial"],
        ),
        (
            {"name": "random", "space": {"a": {"low": 1, "hihg": 2}}},
            ["sweep.space: a: a range has no 'hihg'"],
        ),
        (
            {"name": "random", "space": {"a": {"low": 1}}},
            ["sweep.space: a: 'high' must be a number"],
        ),
        (
            {"name": "random", "space": {"a": {"low": 2, "high": 2}}},
            ["sweep.space: a: low=2 is not below high=2"],
        ),
        (
            {"name": "random", "space": {"a": {"low": 0, "high": 2, "log": True}}},
            ["sweep.space: a: with log: true, low must be above 0"],
        ),
        (
            {"name": "random", "space": {"a": {"low": 0, "high": 2, "step": 3}}},
            ["sweep.space: a: a step is above 0, at most high - low"],
        ),
        (
            {"name": "optuna", "space": RANGE, "objectives": ["ret", "cola"], "prune_after": 5},
            ["sweep.objectives: the run has no task 'ret'", "sweep.prune_after: with several"],
        ),
    ],
)
def test_problems(values: dict[str, Any], problems: list[str]) -> None:
    found = [str(problem) for problem in Sweep(**values).problems(["rte", "cola"])]
    assert len(found) == len(problems)
    for text, problem in zip(found, problems, strict=True):
        assert text.startswith(problem)


def test_optuna_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlcli.config.sweep.find_spec", lambda name: None)
    found = [str(problem) for problem in Sweep(name="random", space=RANGE).problems([])]
    assert found == [
        "sweep: sweep=random needs optuna, which is not installed\n    "
        "-> type pip install 'mtlcli[search]', or sweep=grid"
    ]
