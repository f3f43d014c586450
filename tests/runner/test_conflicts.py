"""What a run says about its tasks' gradients."""

from __future__ import annotations

import json

import pytest
import torch

from mtlcli.runner.conflicts import Conflicts
from mtlcli.weighting.base import Step, WeightedTask

TASKS = {name: WeightedTask(weight, "classification") for name, weight in {"a": 1.0, "b": 1.0, "c": 4.0}.items()}


def step(rows: list[list[float]], tasks: list[str]) -> Step:
    matrix = torch.tensor(rows, dtype=torch.float64)
    return Step(number=0, total=10, epoch=0, seed=0, tasks=tasks, gram=matrix @ matrix.T)


def test_nothing_is_said_when_nothing_was_measured() -> None:
    conflicts = Conflicts({})
    conflicts.add(Step(number=0, total=1, epoch=0, seed=0, tasks=["a", "b"]), TASKS)
    conflicts.add(step([[1.0]], ["a"]), TASKS)
    assert conflicts.report() is None


def test_pairs_and_harm_by_hand() -> None:
    state: dict[str, object] = {}
    conflicts = Conflicts(state)
    # a and b at an obtuse angle, cosine -0.6; their sum (0.4, 0.8) hurts neither.
    conflicts.add(step([[1.0, 0.0], [-0.6, 0.8]], ["a", "b"]), TASKS)
    # c is four times as important: 4 (-0.5, 0) + (1, 0) points against a.
    conflicts.add(step([[1.0, 0.0], [-0.5, 0.0]], ["a", "c"]), TASKS)
    # Counting goes on from what a checkpoint kept.
    again = Conflicts(json.loads(json.dumps(state)))
    again.add(step([[1.0, 0.0], [1.0, 1.0]], ["a", "b"]), TASKS)
    report = again.report()
    assert report is not None
    assert report["pairs"]["a,b"] == {"steps": 2, "conflict": 0.5, "cosine": pytest.approx((-0.6 + 0.5**0.5) / 2)}
    assert report["pairs"]["a,c"] == {"steps": 1, "conflict": 1.0, "cosine": pytest.approx(-1.0)}
    assert report["harmed"] == {"a": pytest.approx(1 / 3), "b": 0.0, "c": 0.0}
    assert report["verdict"] == (
        "gradients of a and c conflict in 100% of 1 measured steps (mean cosine -1.00), the most of all pairs; the plain sum would have"
        " raised the loss of a in 33% of steps, the most of all tasks: balancing had much to gain"
    )


@pytest.mark.parametrize(("harmed", "gain"), [(0, "little"), (4, "little"), (5, "something"), (24, "something"), (25, "much")])
def test_the_verdict_follows_the_harm(harmed: int, gain: str) -> None:
    conflicts = Conflicts({})
    for number in range(100):
        # In both cases a and b conflict; only in the second does the sum go against a.
        conflicts.add(step([[1.0, 0.0], [-3.0, 0.0]] if number < harmed else [[1.0, 0.0], [-0.6, 0.8]], ["a", "b"]), TASKS)
    report = conflicts.report()
    assert report is not None and report["verdict"].endswith(f"balancing had {gain} to gain")
    assert report["pairs"]["a,b"]["conflict"] == 1.0
