"""Nash-MTL: G a = 1 / a."""

from __future__ import annotations

import math

import cvxpy
import pytest
import torch

from mtlcli.weighting.gradients.fairgrad import TOLERANCE
from tests.unit.weighting.gradients.helpers import build, gain_rounding, random_rows, weights_of


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("count", range(1, 9))
def test_the_bargaining_equation(count: int, spread: float) -> None:
    for seed in range(10):
        rows = random_rows(count, seed, common=0.3, spread=spread)
        weights = weights_of(build("nash", count, max_norm=None), rows)
        assert weights.min().item() > 0
        assert (weights * (rows @ rows.T @ weights)).tolist() == pytest.approx(
            [1.0] * count, abs=1e-8
        )


def test_conflicting_gradients_too() -> None:
    for seed in range(10):
        rows = random_rows(4, seed, size=5, spread=0.5)
        weights = weights_of(build("nash", 4, max_norm=None), rows)
        assert (weights * (rows @ rows.T @ weights)).tolist() == pytest.approx([1.0] * 4, abs=1e-8)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_maximises_the_product_of_gains(count: int) -> None:
    """The definition, by another solver: sum of log(g_t . d) over d in a ball of radius sqrt(K)."""
    rows = random_rows(count, 3, size=10, common=0.3, spread=0.5)
    update = cvxpy.Variable(10)
    gains = rows.numpy() @ update
    cvxpy.Problem(
        cvxpy.Maximize(cvxpy.sum(cvxpy.log(gains))), [cvxpy.norm(update) <= math.sqrt(count)]
    ).solve(cvxpy.CLARABEL)
    found = weights_of(build("nash", count, max_norm=None), rows) @ rows
    torch.testing.assert_close(found, torch.from_numpy(update.value), rtol=1e-4, atol=1e-4)


def test_the_length_is_fixed_and_clipped() -> None:
    for factor in (1e-3, 1.0, 1e3):
        rows = factor * random_rows(4, 2, common=0.3)
        lengths = [
            (weights_of(build("nash", 4, max_norm=limit), rows) @ rows).norm().item()
            for limit in (None, 1.0, 5.0)
        ]
        assert lengths == pytest.approx([2.0, 1.0, 2.0])


def test_worked_example() -> None:
    """Orthogonal gradients: a_t = 1 / |g_t|."""
    rows = torch.diag(torch.tensor([2.0, 0.1], dtype=torch.float64))
    assert weights_of(build("nash", 2, max_norm=None), rows).tolist() == pytest.approx([0.5, 10.0])


@pytest.mark.parametrize(
    "rows", [[[1.0, 2.0], [-2.0, -4.0]], [[0.0, 0.0], [1.0, 2.0]]], ids=["opposed", "zero"]
)
def test_gradients_without_a_solution_are_a_failure(rows: list[list[float]]) -> None:
    method, bad = build("nash", 2, max_norm=None), torch.tensor(rows, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="step 0: the solver of nash failed.*plain sum"):
        assert weights_of(method, bad).tolist() == [1.0, 1.0]
    good = weights_of(method, random_rows(2, spread=0.5), 1)
    with pytest.warns(RuntimeWarning, match="step 2: the solver of nash failed"):
        assert torch.equal(weights_of(method, bad, 2), good)
    assert method.report() == {"solver_failures": 2}


def test_nearly_opposed_gradients_are_solved() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1e-3]], dtype=torch.float64)
    weights = weights_of(build("nash", 2, max_norm=None), rows)
    gains = rows @ (weights @ rows)
    off = (weights * gains - 1).abs()
    assert bool((off <= TOLERANCE + gain_rounding(rows @ rows.T, weights, gains)).all()), off
