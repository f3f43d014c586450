"""ConFIG: the same cosine to every gradient."""

from __future__ import annotations

import pytest
import torch
from torchjd.aggregation import ConFIG

from tests.unit.weighting.gradients.helpers import build, random_rows, weights_of


@pytest.mark.parametrize("count", range(1, 9))
def test_cosines_are_equal_and_the_length_is_the_sum_of_projections(count: int) -> None:
    for seed in range(5):
        rows = random_rows(count, seed, common=0.3, spread=1.0)
        update = weights_of(build("conflict_free", count), rows) @ rows
        cosines = torch.cosine_similarity(rows, update[None], dim=1)
        assert cosines.min().item() > 0
        assert cosines.tolist() == pytest.approx([cosines[0].item()] * count)
        assert update.norm().item() == pytest.approx((rows @ update / update.norm()).sum().item())


@pytest.mark.parametrize("count", [2, 3, 6])
def test_equals_torchjd_on_the_rows(count: int) -> None:
    for seed in range(5):
        rows = random_rows(count, seed, size=9, common=0.5, spread=0.7)
        torch.testing.assert_close(
            weights_of(build("conflict_free", count), rows) @ rows, ConFIG()(rows)
        )


def test_dependent_gradients_equal_torchjd_too() -> None:
    """Four gradients in a space of three dimensions: the pseudo-inverse, not an inverse."""
    for seed in range(5):
        rows = random_rows(4, seed, size=3)
        torch.testing.assert_close(
            weights_of(build("conflict_free", 4), rows) @ rows, ConFIG()(rows), rtol=1e-6, atol=1e-8
        )


def test_direction_is_that_of_imtl_g() -> None:
    """Both have equal projections; the lengths differ."""
    rows = random_rows(3, 2, common=0.3, spread=0.7)
    one, other = (weights_of(build(name, 3), rows) for name in ("conflict_free", "imtl_g"))
    torch.testing.assert_close(one / one.sum(), other / other.sum())


def test_importance_changes_the_length_alone() -> None:
    rows = random_rows(3, common=0.3)
    scaled = rows * torch.tensor([[4.0], [1.0], [0.5]])
    one, other = (
        weights_of(build("conflict_free", 3), rows) @ rows,
        weights_of(build("conflict_free", 3), scaled) @ scaled,
    )
    torch.testing.assert_close(one / one.norm(), other / other.norm())
    assert one.norm().item() != pytest.approx(other.norm().item(), rel=0.05)


def test_worked_example() -> None:
    """Norms 3 and 1 at a right angle: x = (1, 1), projections sum to 4 / sqrt(2), d = (2, 2)."""
    rows = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert weights_of(build("conflict_free", 2), rows).tolist() == pytest.approx([2 / 3, 2.0])


def test_opposed_gradients_are_a_failure() -> None:
    with pytest.warns(RuntimeWarning, match="the gradients are opposed.*plain sum"):
        weights_of(
            build("conflict_free", 2), torch.tensor([[1.0, 2.0], [-2.0, -4.0]], dtype=torch.float64)
        )


def test_a_zero_gradient_is_left_out() -> None:
    rows = random_rows(3, 3)
    rows[1] = 0
    weights = weights_of(build("conflict_free", 3), rows)
    torch.testing.assert_close(weights[[0, 2]], weights_of(build("conflict_free", 2), rows[[0, 2]]))
    torch.testing.assert_close(weights @ rows, ConFIG()(rows))
