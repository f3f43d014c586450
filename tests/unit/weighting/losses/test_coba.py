"""The mathematics of CoBa."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from tests.unit.weighting.steps import build, make_step, reloaded, tasks

NAMES = ["a", "b", "c"]


def authors(losses: np.ndarray, warmup: int, window: int, tau: float) -> list[np.ndarray]:
    """`CoBaStatus.compute_per_task_weight` of the authors' MFTCoder, with the paper's minimum in
    the divergence factor and its window of slopes; weights of sum 1. `losses`: (steps, K)."""
    ratios = (losses / losses[0]).T
    slopes: list[np.ndarray] = []
    largest: list[float] = []
    found = []
    count = len(ratios)
    for step in range(1, losses.shape[0] + 1):
        if step < warmup:
            found.append(np.full(count, 1 / count))
            continue
        history = ratios[:, max(0, step - window) : step]
        places = np.arange(history.shape[1])
        slopes.append(np.array([np.polyfit(places, each, 1)[0] for each in history]))
        largest.append(np.polyfit(places, history.max(0), 1)[0])
        rcs = softmax(count * slopes[-1] / np.abs(slopes[-1]).sum())
        last = np.array(slopes[-window:])
        acs = softmax(-len(last) * last[-1] / np.abs(last).sum(0))
        total = np.array(largest)
        normalized = -len(total) * total / np.abs(total).sum()
        divergence = min(1.0, softmax(normalized * tau)[-1] * len(total))
        weight = softmax((divergence * rcs + (1 - divergence) * acs) * count)
        minimum = 1 / (count * 10)
        found.append(weight * (1 - minimum * count) + minimum)
    return found


@pytest.mark.parametrize("tau", [1.0, 5.0])
def test_trajectory_is_that_of_the_authors_code(tau: float) -> None:
    random = np.random.default_rng(0)
    times = np.arange(30)[:, None]
    # One task falls, one falls slowly, one rises after a while.
    losses = np.hstack([0.95**times, 2 * 0.99**times, 0.5 + 0.02 * np.abs(times - 15)])
    losses = losses * random.uniform(0.95, 1.05, losses.shape)
    options: dict[str, Any] = {"warmup": 5, "window": 8, "tau": tau}
    method = build("coba", tasks(a=1.0, b=1.0, c=2.0), **options)
    for number, expected in enumerate(authors(losses, 5, 8, tau)):
        step = make_step(NAMES, number=number)
        assert method.validates(step)
        method.observe_validation(step, dict(zip(NAMES, losses[number].tolist(), strict=True)))
        weights = list(method.weights(step).values())
        assert weights == pytest.approx((3 * expected * [1, 1, 2]).tolist(), rel=1e-6)
        if number == 12:
            method = reloaded(method)
    assert max(weights) > 1.5


def test_it_measures_every_so_many_steps() -> None:
    method = build("coba", tasks(a=1.0, b=1.0), every=3)
    assert [method.validates(make_step(["a", "b"], number=number)) for number in range(5)] == [
        *(True, False, False),
        *(True, False),
    ]


def test_a_task_of_importance_0_is_left_out() -> None:
    with_it = build("coba", tasks(a=1.0, b=0.0, c=1.0), warmup=2)
    without = build("coba", tasks(a=1.0, c=1.0), warmup=2)
    for number in range(6):
        losses = {"a": 1 / (number + 1), "c": 1.0 - 0.01 * number}
        with_it.observe_validation(make_step(NAMES, number=number), losses | {"b": 9.0 + number})
        without.observe_validation(make_step(["a", "c"], number=number), losses)
    assert with_it.weights(make_step(NAMES)) == {
        **without.weights(make_step(["a", "c"])),
        "b": 0.0,
    }


def test_losses_that_stand_still_are_the_plain_sum() -> None:
    method = build("coba", tasks(a=1.0, b=1.0), warmup=2)
    for number in range(5):
        method.observe_validation(make_step(["a", "b"], number=number), {"a": 0.0, "b": 1.0})
    assert method.weights(make_step(["a", "b"])) == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_run_too_short_for_the_warm_up_is_named() -> None:
    method = build("coba", tasks(a=1.0, b=1.0))
    assert "is the plain sum in all 60 steps" in method.remarks(60, 10)[0]
    assert not method.remarks(200, 10)
