"""MGDA: the minimum-norm point of the convex hull."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torchjd.aggregation import MGDAWeighting

from tests.unit.weighting.gradients.helpers import build, random_rows, weights_of


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 3])
def test_no_point_of_a_fine_grid_on_the_simplex_is_shorter(count: int, seed: int) -> None:
    rows = random_rows(count, seed, common=0.5, spread=0.5)
    weights = weights_of(build("mgda", count), rows) / count
    steps = 200
    grid = [point for point in product(range(steps + 1), repeat=count - 1) if sum(point) <= steps]
    points = (
        torch.tensor([[*point, steps - sum(point)] for point in grid], dtype=torch.float64) / steps
    )
    lengths = (points @ rows).norm(dim=1)
    shortest = (weights @ rows).norm()
    assert shortest <= lengths.min() + 1e-12
    assert lengths.min() - shortest < 0.02 * rows.norm(dim=1).max(), "the grid comes near it"


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("count", range(2, 9))
def test_optimality_conditions(count: int, spread: float) -> None:
    """g_t . d >= |d|^2 for all t, equal where w_t > 0: every loss falls at least as fast as the
    shortest vector says."""
    for seed in range(10):
        rows = random_rows(count, seed, common=0.7, spread=spread)
        weights = weights_of(build("mgda", count), rows) / count
        assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1, abs=1e-12)
        update = weights @ rows
        gains = rows @ update / (update @ update)
        assert gains.min().item() >= 1 - 1e-8
        assert bool(((gains - 1).abs()[weights > 0] < 1e-8).all())


def test_closed_form_for_two_tasks() -> None:
    """Sener & Koltun, algorithm 1: w = clip((g_2 - g_1) . g_2 / |g_1 - g_2|^2)."""
    for seed in range(20):
        rows = random_rows(2, seed, size=3, spread=0.7)
        one, two = rows
        expected = ((two - one) @ two / ((one - two) @ (one - two))).clamp(0, 1).item()
        assert weights_of(build("mgda", 2), rows).tolist() == pytest.approx(
            [2 * expected, 2 * (1 - expected)], abs=1e-12
        )


def test_never_longer_than_torchjds_frank_wolfe() -> None:
    """Which finds the same point where it converges."""
    ratios = []
    for seed in range(20):
        rows = random_rows(4, seed, common=0.3)
        exact = weights_of(build("mgda", 4), rows) / 4
        ratios.append(
            ((MGDAWeighting()(rows @ rows.T) @ rows).norm() / (exact @ rows).norm()).item()
        )
    assert min(ratios) >= 1 - 1e-12 and sorted(ratios)[10] == pytest.approx(1, abs=2e-3)


def test_pareto_stationary_points_stop_the_update() -> None:
    opposed = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert weights_of(build("mgda", 2), opposed).tolist() == pytest.approx([4 / 3, 2 / 3])
    zero = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert weights_of(build("mgda", 2), zero).tolist() == [0.0, 2.0]


def test_normalized_gradients_give_the_weights() -> None:
    rows, losses, importance = (
        random_rows(3, 4, common=0.5, spread=0.5),
        [0.5, 2.0, 1.25],
        [1.0, 2.0, 0.5],
    )
    scaled = rows * torch.tensor(importance)[:, None].double()
    norms, weighted_losses = (
        scaled.norm(dim=1),
        torch.tensor(losses).double() * torch.tensor(importance).double(),
    )
    divisors = {
        "none": torch.ones(3),
        "l2": norms,
        "loss": weighted_losses,
        "loss+": norms * weighted_losses,
    }
    found = {}
    for normalize, divisor in divisors.items():
        found[normalize] = weights_of(
            build("mgda", 3, importance, normalize=normalize), rows, losses=losses
        )
        expected = weights_of(build("mgda", 3), scaled / divisor[:, None])
        torch.testing.assert_close(found[normalize], expected)
    assert len({tuple(weights.tolist()) for weights in found.values()}) == 4


def test_a_loss_of_zero_cannot_divide() -> None:
    method = build("mgda", 2, normalize="loss")
    rows = random_rows(2)
    good = weights_of(method, rows)
    with pytest.warns(RuntimeWarning, match="mgda failed .a loss is not positive"):
        assert torch.equal(weights_of(method, rows, losses=[0.0, 1.0]), good)
