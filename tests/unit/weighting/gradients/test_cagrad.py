"""CAGrad: the best for the worst-off task in a ball around the mean gradient."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from tests.unit.weighting.gradients.helpers import build, random_rows, weights_of


def dual(gram: np.ndarray, c: float) -> np.ndarray:
    """The authors' solver, SLSQP on the dual, with a tighter tolerance; the weights of d."""
    count = len(gram)
    mean = np.full(count, 1 / count)
    radius = c * np.sqrt(mean @ gram @ mean)
    found = minimize(
        lambda w: w @ gram @ mean + radius * np.sqrt(w @ gram @ w + 1e-20),
        mean,
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: 1 - w.sum()},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return mean + radius / np.sqrt(found.x @ gram @ found.x) * found.x


def worst_gain(rows: Tensor, update: Tensor) -> float:
    return (rows @ update).min().item()


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_reaches_the_edge_of_its_ball_and_never_leaves_it(count: int, c: float) -> None:
    for seed in range(5):
        rows = random_rows(count, seed, common=0.3, spread=0.3)
        mean = rows.mean(0)
        update = weights_of(build("cagrad", count, c=c), rows) @ rows / count
        assert (update - mean).norm().item() == pytest.approx(c * mean.norm().item(), rel=1e-6)


@pytest.mark.parametrize("c", [0.2, 0.5])
@pytest.mark.parametrize("count", [2, 4])
def test_no_point_of_the_ball_is_better_for_the_worst_off(count: int, c: float) -> None:
    rows = random_rows(count, 1, size=6, common=0.3)
    mean = rows.mean(0)
    best = worst_gain(rows, weights_of(build("cagrad", count, c=c), rows) @ rows / count)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        direction = torch.randn(6, generator=generator, dtype=torch.float64)
        assert (
            worst_gain(rows, mean + c * mean.norm() * direction / direction.norm()) <= best + 1e-6
        )
    assert best > worst_gain(rows, mean)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equals_the_authors_solver_of_the_dual(count: int) -> None:
    for seed in range(5):
        rows = random_rows(count, seed, common=0.3, spread=0.3)
        expected = count * torch.from_numpy(dual((rows @ rows.T).numpy(), 0.4)) @ rows
        update = weights_of(build("cagrad", count), rows) @ rows
        assert (update - expected).norm().item() < 1e-4 * expected.norm().item()


def test_c_of_zero_is_the_sum() -> None:
    assert weights_of(build("cagrad", 3, c=0.0), random_rows(3)).tolist() == pytest.approx(
        [1.0] * 3
    )


def test_without_a_direction_it_is_the_centre_of_the_ball() -> None:
    """A zero gradient: nothing helps it, g_w = 0; the others go on."""
    rows = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    assert weights_of(build("cagrad", 2), rows).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("failure", ["raises", "gives nothing"])
def test_failures_of_cvxpy_are_failures_of_the_solver(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, rows = build("cagrad", 3), random_rows(3, spread=0.5)
    good = weights_of(method, rows)

    def solve(*arguments: object, **more: object) -> None:
        if failure == "raises":
            raise cvxpy.error.SolverError("Solver 'CLARABEL' failed.")

    monkeypatch.setattr(cvxpy.Problem, "solve", solve)
    with pytest.warns(RuntimeWarning, match="the solver of cagrad failed .cvxpy"):
        assert torch.equal(weights_of(method, random_rows(3, 1)), good)
    assert method.failures == 1
