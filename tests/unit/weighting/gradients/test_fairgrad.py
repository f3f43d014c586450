"""FairGrad: G w = w^(-1 / alpha)."""

from __future__ import annotations

import math

import cvxpy
import pytest
import torch
from torchjd.aggregation import FairGradWeighting

from mtlcli.weighting.gradients.base import SolverFailed
from mtlcli.weighting.gradients.fairgrad import TOLERANCE, fair_weights
from tests.unit.weighting.gradients.helpers import build, gain_rounding, random_rows, weights_of


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("count", range(1, 9))
def test_the_equation(count: int, alpha: float) -> None:
    for seed in range(10):
        rows = random_rows(count, seed, common=0.3, spread=1.0)
        weights = weights_of(build("fairgrad", count, alpha=alpha, max_norm=None), rows)
        assert weights.min().item() > 0
        assert (rows @ rows.T @ weights * weights ** (1 / alpha)).tolist() == pytest.approx(
            [1.0] * count, abs=1e-8
        )


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 4.0])
def test_equals_torchjd_where_that_converges(alpha: float) -> None:
    compared = 0
    for seed in range(15):
        rows = random_rows(2 + seed % 4, seed, size=8)
        gram = rows @ rows.T
        expected = FairGradWeighting(alpha)(gram)
        if (gram @ expected * expected ** (1 / alpha) - 1).abs().max() < 1e-6:
            compared += 1
            weights = weights_of(build("fairgrad", len(rows), alpha=alpha, max_norm=None), rows)
            torch.testing.assert_close(weights, expected, rtol=1e-5, atol=0)
    assert compared > 5


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_maximises_the_alpha_fair_sum_of_gains(alpha: float) -> None:
    """The definition, by another solver, over the ball that has the update on its edge."""
    rows = random_rows(3, 3, size=10, common=0.3, spread=0.3)
    found = weights_of(build("fairgrad", 3, alpha=alpha, max_norm=None), rows) @ rows
    update = cvxpy.Variable(10)
    fair = cvxpy.sum(cvxpy.power(rows.numpy() @ update, 1 - alpha)) / (1 - alpha)
    cvxpy.Problem(cvxpy.Maximize(fair), [cvxpy.norm(update) <= found.norm().item()]).solve(
        cvxpy.CLARABEL
    )
    torch.testing.assert_close(
        found, torch.from_numpy(update.value), rtol=1e-3, atol=1e-3 * found.norm().item()
    )


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_nash_is_alpha_1(max_norm: float | None) -> None:
    rows = random_rows(5, 2, common=0.3, spread=1.0)
    fair = weights_of(build("fairgrad", 5, alpha=1.0, max_norm=max_norm), rows)
    assert torch.equal(fair, weights_of(build("nash", 5, max_norm=max_norm), rows))


def test_limits_of_alpha() -> None:
    """The larger alpha, the more equal the gains; near 0 the weights are equal."""
    rows = random_rows(3, 1, common=0.7, spread=0.5) / 10
    ratios = []
    for alpha in (0.01, 0.5, 1.0, 2.0, 10.0):
        weights = weights_of(build("fairgrad", 3, alpha=alpha, max_norm=None), rows)
        gains = rows @ (weights @ rows)
        ratios.append((gains.max() / gains.min()).item())
        if alpha == 0.01:
            assert (weights / weights.mean()).tolist() == pytest.approx([1.0] * 3, abs=0.1)
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] < 1.5 < ratios[0]


def test_a_long_update_is_clipped_and_a_short_one_is_not() -> None:
    rows = random_rows(3, 1, common=0.3)
    free = weights_of(build("fairgrad", 3, max_norm=None), rows)
    length = (free @ rows).norm().item()
    torch.testing.assert_close(
        weights_of(build("fairgrad", 3, max_norm=length / 2), rows), free / 2
    )
    assert torch.equal(weights_of(build("fairgrad", 3, max_norm=length * 2), rows), free)


def test_worked_example() -> None:
    """Orthogonal gradients, alpha = 2: n^2 w = w^(-1/2), w = n^(-4/3)."""
    rows = torch.diag(torch.tensor([8.0, 0.125, 1.0], dtype=torch.float64))
    expected = [8 ** (-4 / 3), 8 ** (4 / 3), 1.0]
    assert weights_of(build("fairgrad", 3, max_norm=None), rows).tolist() == pytest.approx(expected)
    assert math.isclose(expected[0], 1 / 16)


@pytest.mark.parametrize(("angle", "alpha"), [(1e-3, 0.5), (1e-3, 5.0), (1e-5, 1.0), (1e-5, 2.0)])
def test_nearly_opposed_gradients_are_solved_as_far_as_float64_can_tell(
    angle: float, alpha: float
) -> None:
    rows = torch.tensor([[1.0, 0.0], [-100.0, 100 * angle]], dtype=torch.float64)
    weights = fair_weights(rows @ rows.T, alpha)
    # In exact arithmetic the gains of this pair are those of its two directions: no cancellation.
    exact = torch.stack([weights[0] - 100 * weights[1], 100 * angle * weights[1]])
    gains = torch.stack([exact[0], -100 * exact[0] + 100 * angle * exact[1]])
    off = (gains * weights ** (1 / alpha) - 1).abs()
    allowed = TOLERANCE + gain_rounding(rows @ rows.T, weights, gains)
    assert bool((off <= allowed).all()) and allowed.max() < 1e-2, (off, allowed)


@pytest.mark.parametrize("angle", [1e-9, 0.0])
def test_what_rounding_hides_is_a_failure(angle: float) -> None:
    rows = torch.tensor([[1.0, 0.0], [-100.0, 100 * angle]], dtype=torch.float64)
    with pytest.raises(SolverFailed, match="opposed"):
        fair_weights(rows @ rows.T, 1.0)
