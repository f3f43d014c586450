"""The mathematics of the sampling policies, over every registered policy where it holds for all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from mtlcli.config.sampling import samplings
from mtlcli.sampling.base import Sampling, TaskSize

SIZES = {
    "big": TaskSize(6400, 200, 32),
    "middle": TaskSize(1600, 50, 32),
    "small": TaskSize(40, 5, 8),
}


def build(name: str, seed: int = 0, **options: object) -> Sampling:
    return samplings.implementation(name)(samplings.configs[name](**options), SIZES, seed)


@pytest.mark.parametrize("name", list(samplings))
def test_a_plan_is_a_pure_function_of_seed_and_step(name: str) -> None:
    one, other = build(name), build(name)
    steps = [700, 3, 254, 255, 256, 3, 0]
    forwards = {step: one.plan(step) for step in range(800)}
    assert [other.plan(step) for step in steps] == [forwards[step] for step in steps]
    assert all(
        examples == SIZES[task].batch_size for plan in forwards.values() for task, examples in plan
    )


@pytest.mark.parametrize("name", [name for name in samplings if name != "all"])
def test_another_seed_is_another_order(name: str) -> None:
    assert [build(name, 0).plan(step) for step in range(60)] != [
        build(name, 1).plan(step) for step in range(60)
    ]


def test_proportional_meets_every_batch_once_an_epoch() -> None:
    policy = build("proportional")
    assert policy.steps_per_epoch == 255
    for epoch in range(3):
        counts = Counter(
            task for step in range(255 * epoch, 255 * (epoch + 1)) for task, _ in policy.plan(step)
        )
        assert counts == {"big": 200, "middle": 50, "small": 5}
    assert [policy.plan(step) for step in range(255)] != [
        policy.plan(step) for step in range(255, 510)
    ]


def test_all_puts_every_task_into_every_step() -> None:
    policy = build("all")
    assert policy.plan(17) == [("big", 32), ("middle", 32), ("small", 8)]
    assert policy.steps_per_epoch == 200


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0}, np.array([6400, 1600, 40]) / 8040),
        ({"temperature": 2.0}, np.array([80, 40, 40**0.5]) / (120 + 40**0.5)),
        ({"temperature": 1.0, "cap": 1600}, np.array([1600, 1600, 40]) / 3240),
        ({"temperature": 1e9}, np.full(3, 1 / 3)),
    ],
)
def test_temperature_probabilities(options: dict[str, float], expected: np.ndarray) -> None:
    np.testing.assert_allclose(build("temperature", **options).probabilities, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["temperature", "uniform"])
def test_draws_follow_the_probabilities(name: str) -> None:
    policy = build(name)
    counts = Counter(policy.plan(step)[0][0] for step in range(6000))
    observed = [counts[task] for task in SIZES]
    assert chisquare(observed, 6000 * policy.probabilities).pvalue > 1e-3
