"""The mathematics of GO4Align."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tests.unit.weighting.steps import build, make_step, reloaded, tasks

NAMES = ["a", "b", "c", "d"]


def brute_force(values: np.ndarray, groups: int) -> np.ndarray:
    """The means of the best of all assignments to groups."""
    best, found = np.inf, values
    for assignment in product(range(groups), repeat=len(values)):
        labels = np.array(assignment)
        means = np.array(
            [values[labels == group].mean() if (labels == group).any() else 0 for group in labels]
        )
        cost = ((values - means) ** 2).sum()
        if cost < best - 1e-15:
            best, found = cost, means
    return found


def authors(losses: np.ndarray, groups: int, step_size: float) -> list[np.ndarray]:
    """`GO4ALIGN.get_weighted_loss` of the authors' cluster_methods.py, step by step, with the best
    k-means in place of a random one. `losses`: (steps, K)."""
    count = losses.shape[1]
    probs, found = np.ones(count) / count, []
    for loss in losses:
        scale = loss.sum() / loss
        probs = probs * np.exp(-step_size * loss)
        probs = probs / probs.sum()
        weight = scale * probs
        if groups == 1:
            found.append(np.ones(count) * weight.mean())
        else:
            found.append(brute_force(weight, groups))
    return found


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
@pytest.mark.parametrize("step_size", [1e-4, 0.3])
def test_trajectory_is_that_of_the_authors_code(groups: int, step_size: float) -> None:
    losses = 0.2 + np.random.default_rng(0).random((20, 4)) * np.array([1, 1, 4, 9])
    method = build(
        "go4align", tasks(**dict.fromkeys(NAMES, 1.0)), groups=groups, step_size=step_size
    )
    for number, (each, expected) in enumerate(
        zip(losses, authors(losses, groups, step_size), strict=True)
    ):
        step = make_step(dict(zip(NAMES, each.tolist(), strict=True)), number=number)
        assert list(method.weights(step).values()) == pytest.approx(expected.tolist(), rel=1e-6)
        method.observe(step)
        if number == 9:
            method = reloaded(method)


def test_equal_losses_are_the_plain_sum() -> None:
    method = build("go4align", tasks(a=1.0, b=1.0, c=2.0))
    weights = method.weights(make_step(dict.fromkeys("abc", 0.7)))
    assert weights == pytest.approx({"a": 1.0, "b": 1.0, "c": 2.0})


def test_a_task_of_importance_0_is_in_no_group() -> None:
    with_it, without = (
        build("go4align", tasks(a=1.0, b=0.0, c=1.0)),
        build("go4align", tasks(a=1.0, c=1.0)),
    )
    for number in range(3):
        losses = {"a": 1.0 + number, "c": 0.5}
        step, other = make_step({**losses, "b": 9.0}), make_step(losses)
        assert with_it.weights(step) == pytest.approx({**without.weights(other), "b": 0.0})
        with_it.observe(step)
        without.observe(other)


def test_more_groups_than_tasks_are_refused() -> None:
    config = build("go4align", tasks(a=1.0), groups=3).config
    assert [each.where for each in config.problems(["a", "b"])] == ["weighting.groups"]
    assert not list(config.problems(["a", "b", "c"]))
