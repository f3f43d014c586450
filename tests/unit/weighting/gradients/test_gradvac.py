"""GradVac: cosines are raised to their running average."""

from __future__ import annotations

import math

import pytest
import torch
from torchjd.aggregation import GradVacWeighting

from mtlcli.weighting.gradients.base import drawing
from tests.unit.weighting.gradients.helpers import build, random_rows, step_of, weights_of


@pytest.mark.parametrize("beta", [0.01, 0.5, 0.9])
@pytest.mark.parametrize("count", [2, 4, 7])
def test_trajectory_equals_torchjds(count: int, beta: float) -> None:
    method, other = build("gradvac", count, beta=beta), GradVacWeighting(beta=beta, eps=0.0)
    for number in range(15):
        rows = random_rows(count, number, size=8, common=0.5, spread=0.5)
        with drawing(step_of(rows, number)):
            expected = other(rows @ rows.T)
        torch.testing.assert_close(weights_of(method, rows, number), expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_is_pcgrad() -> None:
    """The goals are 0 then; orders of two tasks are the same."""
    for seed in range(10):
        rows = random_rows(2, seed, size=5)
        torch.testing.assert_close(
            weights_of(build("gradvac", 2), rows), weights_of(build("pcgrad", 2), rows)
        )


def test_worked_example() -> None:
    """Cosine 0.6, then 0: with beta = 0.5 the goal is 0.3, and both gradients are turned until
    their cosine with the other is 0.3."""
    method = build("gradvac", 2, beta=0.5)
    assert weights_of(
        method, torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    ).tolist() == [1.0, 1.0]
    assert method.goals["ant"]["bee"] == pytest.approx(0.3) and method.goals["bee"][
        "ant"
    ] == pytest.approx(0.3)
    rows = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    weights = weights_of(method, rows, 1)
    # g_1 + w g_2 has the cosine 0.3 with g_2 where w |g_2| / sqrt(|g_1|^2 + w^2 |g_2|^2) = 0.3.
    tangent = 0.3 / math.sqrt(1 - 0.09)
    assert weights.tolist() == pytest.approx([1 + tangent * 3 / 2, 1 + tangent * 2 / 3])
    turned = rows[0] + (weights[1] - 1) * rows[1]
    assert torch.cosine_similarity(turned, rows[1], dim=0).item() == pytest.approx(0.3)
    assert method.goals["ant"]["bee"] == pytest.approx(0.15)


def test_goals_belong_to_pairs_of_names() -> None:
    method = build("gradvac", 3, beta=0.5)
    rows = random_rows(3, 1)
    weights_of(method, rows)
    kept = method.goals["cat"]["ant"]
    weights_of(method, rows[:2], 1, ["bee", "ant"])
    assert method.goals["cat"]["ant"] == kept and method.goals["ant"].keys() == {"bee", "cat"}


def test_equal_gradients_for_ever_stay_the_sum() -> None:
    method = build("gradvac", 2, beta=0.9)
    for number in range(200):
        assert weights_of(method, random_rows(1, number).repeat(2, 1), number).tolist() == [
            1.0,
            1.0,
        ]
    assert method.goals["ant"]["bee"] > 1 - 1e-12
    assert bool(weights_of(method, random_rows(2, 0), 200).isfinite().all())


def test_a_zero_gradient_is_passed_over() -> None:
    method, rows = build("gradvac", 3), random_rows(3, 2)
    rows[1] = 0
    weights = weights_of(method, rows)
    torch.testing.assert_close(weights[[0, 2]], weights_of(build("gradvac", 2), rows[[0, 2]]))
    assert method.goals["bee"] == {} and "bee" not in method.goals["ant"]
