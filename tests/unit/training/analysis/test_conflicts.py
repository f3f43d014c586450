"""What a run says about its tasks' gradients."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

from mtlcli.training.analysis.conflicts import Conflicts
from mtlcli.weighting.base import Step, WeightedTask

TASKS = {
    name: WeightedTask(weight, "classification")
    for name, weight in {"a": 1.0, "b": 1.0, "c": 4.0}.items()
}


def step(rows: list[list[float]] | torch.Tensor, tasks: list[str]) -> Step:
    matrix = torch.as_tensor(rows, dtype=torch.float64)
    return Step(number=0, total=10, epoch=0, seed=0, tasks=tasks, gram=matrix @ matrix.T)


def test_without_measurements_there_is_no_verdict() -> None:
    conflicts = Conflicts({})
    conflicts.add(Step(number=0, total=1, epoch=0, seed=0, tasks=["a", "b"]), TASKS)
    conflicts.add(step([[1.0]], ["a"]), TASKS)
    assert conflicts.report() is None


def test_conflicts_and_harm_equal_a_count_by_hand() -> None:
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
    cosines = [-0.6, 0.5**0.5]
    error = statistics.stdev(cosines) / 2**0.5
    assert report["pairs"]["a,b"] == {
        "steps": 2,
        "conflict": 0.5,
        "cosine": pytest.approx(statistics.mean(cosines)),
        "error": pytest.approx(error),
    }
    assert report["pairs"]["a,c"] == {
        "steps": 1,
        "conflict": 1.0,
        "cosine": pytest.approx(-1.0),
        "error": 0.0,
    }
    harm = [0.4 / 0.8**0.5, -1.0, 2 / 5**0.5]
    assert report["against_the_sum"]["a"]["cosine"] == pytest.approx(statistics.mean(harm))
    assert report["against_the_sum"]["a"]["conflict"] == pytest.approx(1 / 3)
    assert report["verdict"] == (
        "gradients of a and c conflict in 100% of 1 measured step (mean cosine -1.000 +- 0.000, "
        "the lowest of all pairs; 50% and 0 mean no"
        " relation); the plain sum would have raised the loss of a in 33% of steps: too few steps "
        "to say whether balancing had"
        " anything to gain"
    )


def verdict(pull: float, size: float) -> str:
    """Of 200 steps of noisy gradients: b's mean is `pull` times a's, and b is `size` times as
    long."""
    torch.manual_seed(0)
    direction = torch.randn(50, dtype=torch.float64)
    conflicts = Conflicts({})
    for _ in range(200):
        one, other = direction + torch.randn(50), pull * direction + torch.randn(50)
        conflicts.add(step(torch.stack([one, size * other]), ["a", "b"]), TASKS)
    report = conflicts.report()
    assert report is not None
    return str(report["verdict"])


def test_noise_is_no_conflict() -> None:
    """Gradients without relation conflict in about half of the steps, and one that is small is
    often outvoted."""
    said = verdict(0.0, 8.0)
    assert said.endswith("no two tasks pull apart on average, and balancing had little to gain")
    assert " conflict in 5" in said or " conflict in 4" in said


def test_the_verdict_follows_the_means() -> None:
    assert verdict(0.5, 1.0).endswith("balancing had little to gain")
    assert verdict(-0.3, 1.0).endswith(
        "but the sum helps all of them on average, and balancing had something to gain"
    )
    assert verdict(-0.5, 8.0).endswith(
        "on average it goes against a, and balancing had much to gain"
    )
