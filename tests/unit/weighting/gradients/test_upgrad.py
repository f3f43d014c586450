"""UPGrad: projections onto the dual cone of the gradients."""

from __future__ import annotations

import cvxpy
import pytest
import torch

from mtlcli.weighting.nonnegative import ExactProjector
from tests.unit.weighting.gradients.helpers import build, random_rows, weights_of


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_each_projection_is_in_the_dual_cone_and_so_is_the_update(
    count: int, spread: float
) -> None:
    conflicts = 0
    for seed in range(10):
        rows = random_rows(count, seed, size=10, spread=spread)
        norms = rows.norm(dim=1)
        cosines = (rows @ rows.T) / norms[:, None] / norms
        conflicts += bool((cosines < 0).any())
        projections = ExactProjector()(torch.eye(count, dtype=torch.float64), rows @ rows.T) @ rows
        assert (projections @ rows.T / norms[:, None] / norms).min().item() >= -1e-10
        weights = weights_of(build("upgrad", count), rows)
        torch.testing.assert_close(weights @ rows, projections.sum(0))
    assert conflicts > 2


@pytest.mark.parametrize("count", [2, 4, 6])
def test_equals_the_projection_of_the_rows_themselves(count: int) -> None:
    """The primal problem by another solver: the nearest d with g_t . d >= 0."""
    rows = random_rows(count, 5, size=7, spread=0.3)
    expected = torch.zeros(7, dtype=torch.float64)
    for row in rows:
        nearest = cvxpy.Variable(7)
        cvxpy.Problem(
            cvxpy.Minimize(cvxpy.sum_squares(nearest - row.numpy())), [rows.numpy() @ nearest >= 0]
        ).solve(cvxpy.CLARABEL)
        expected += torch.from_numpy(nearest.value)
    torch.testing.assert_close(
        weights_of(build("upgrad", count), rows) @ rows, expected, rtol=1e-5, atol=1e-5
    )


def test_no_conflict_no_change() -> None:
    rows = random_rows(4, size=10).abs()
    assert weights_of(build("upgrad", 4), rows).tolist() == [1.0] * 4


def test_two_tasks_are_those_of_pcgrad() -> None:
    """Where one plane cuts the cone, projecting onto it is projecting onto the cone."""
    for seed in range(10):
        rows = random_rows(2, seed, size=4, spread=0.5)
        torch.testing.assert_close(
            weights_of(build("upgrad", 2), rows), weights_of(build("pcgrad", 2), rows)
        )


def test_opposed_gradients_stop_the_update() -> None:
    rows = torch.tensor([[1.0, 2.0], [-2.0, -4.0]], dtype=torch.float64)
    assert (weights_of(build("upgrad", 2), rows) @ rows).abs().max().item() < 1e-12


def test_a_zero_gradient_is_harmless() -> None:
    rows = random_rows(3, 3, size=3)
    rows[1] = 0
    weights = weights_of(build("upgrad", 3), rows)
    assert weights[1] == 1.0
    torch.testing.assert_close(weights[[0, 2]], weights_of(build("upgrad", 2), rows[[0, 2]]))
