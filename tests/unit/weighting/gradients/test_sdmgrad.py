"""SDMGrad: SGD on the simplex towards the pulled minimum-norm point."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import minimize
from torchjd.aggregation import SDMGradWeighting

from mtlcli.weighting.gradients.sdmgrad import project_onto_simplex
from tests.unit.weighting.gradients.helpers import build, random_rows, weights_of


@pytest.mark.parametrize(
    "options",
    [{}, {"pull": 0.0, "inner_lr": 0.5}, {"momentum": 0.9, "inner_lr": 0.1, "inner_steps": 5}],
)
@pytest.mark.parametrize("count", [2, 4, 7])
def test_trajectory_equals_torchjds(count: int, options: dict[str, float]) -> None:
    method = build("sdmgrad", count, **options)
    config = method.config
    other = SDMGradWeighting(
        lr=config.inner_lr, momentum=config.momentum, n_iter=config.inner_steps, lambda_=config.pull
    )
    for number in range(10):
        # torchjd adds 1e-8 to the mean norm squared; long gradients make nothing of it.
        rows = 1e4 * random_rows(count, number, common=0.5, spread=0.3)
        torch.testing.assert_close(
            weights_of(method, rows, number), count * other(rows @ rows.T), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("pull", [0.0, 0.3, 2.0])
def test_converges_to_the_papers_minimum(pull: float) -> None:
    rows = random_rows(4, 3, common=0.4, spread=0.2)
    gram = (rows @ rows.T).numpy()
    method = build("sdmgrad", 4, pull=pull, inner_lr=0.05, inner_steps=5000, momentum=0.0)
    found = weights_of(method, rows)
    best = minimize(
        lambda w: (w + pull / 4) @ gram @ (w + pull / 4),
        [0.25] * 4,
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14},
    )
    assert list(method.simplex.values()) == pytest.approx(best.x, abs=1e-4)
    assert found.tolist() == pytest.approx(4 * (best.x + pull / 4) / (1 + pull), abs=1e-3)
    if pull == 0:
        torch.testing.assert_close(found, weights_of(build("mgda", 4), rows), rtol=0, atol=1e-6)


def test_weights_sum_to_k_and_a_strong_pull_is_the_sum() -> None:
    rows = random_rows(5, 2, common=0.3, spread=0.5)
    assert weights_of(build("sdmgrad", 5), rows).sum().item() == pytest.approx(5)
    assert weights_of(build("sdmgrad", 5, pull=1e6), rows).tolist() == pytest.approx(
        [1.0] * 5, abs=1e-5
    )


def test_one_step_at_the_authors_learning_rate_equals_torchjds() -> None:
    """Not a trajectory: it amplifies rounding."""
    rows = 1e4 * random_rows(3, 1, common=0.5)
    torch.testing.assert_close(
        weights_of(build("sdmgrad", 3, inner_lr=10.0), rows), 3 * SDMGradWeighting()(rows @ rows.T)
    )


def test_rounding_is_not_amplified() -> None:
    """One rank and two differ by about 1e-7 in their gradients; their weights must not drift
    apart."""
    one, other = build("sdmgrad", 8), build("sdmgrad", 8)
    for number in range(20):
        rows = random_rows(8, number, size=500, spread=0.3)
        noise = 1 + 1e-7 * random_rows(8, 100 + number, size=500)
        difference = weights_of(one, rows, number) - weights_of(other, rows * noise, number)
        assert difference.abs().max().item() < 1e-5


def test_starts_where_the_last_step_ended_by_name() -> None:
    """With a learning rate too small to matter, w stays where it is; that of the absent task
    too."""
    method = build("sdmgrad", 3, inner_lr=1e-12, pull=0.0)
    method.simplex = {"ant": 0.7, "bee": 0.2, "cat": 0.1}
    rows = random_rows(3)
    assert weights_of(method, rows, 0, ["cat", "ant", "bee"]).tolist() == pytest.approx(
        [0.3, 2.1, 0.6]
    )
    # Without ant, the others are projected: 0.2 + 0.35 and 0.1 + 0.35.
    assert weights_of(method, rows[:2], 1, ["bee", "cat"]).tolist() == pytest.approx([1.1, 0.9])
    assert method.simplex == pytest.approx({"ant": 0.7, "bee": 0.55, "cat": 0.45})


def test_projection_onto_the_simplex() -> None:
    """It is on the simplex, and no point of the simplex is closer: (x - p) . (q - p) <= 0 for all
    corners q."""
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 9):
        for scale in (0.1, 1.0, 100.0):
            point = scale * torch.randn(count, generator=generator, dtype=torch.float64)
            nearest = project_onto_simplex(point)
            assert nearest.min() >= 0 and nearest.sum().item() == pytest.approx(1)
            corners = torch.eye(count, dtype=torch.float64) - nearest
            assert (corners @ (point - nearest)).max().item() <= 1e-9 * scale
