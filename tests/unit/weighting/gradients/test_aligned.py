"""Aligned-MTL: the matrix of gradients with condition number 1 that is nearest."""

from __future__ import annotations

import pytest
import torch

from tests.unit.weighting.gradients.helpers import build, random_rows, weights_of


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_equals_the_singular_value_decomposition_of_the_rows(count: int, scale: str) -> None:
    """Every singular value of J becomes the same; the update is the sum of the rows of that."""
    for seed in range(5):
        rows = random_rows(count, seed, common=0.5, spread=0.5)
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
        # torch's median is the lower of two, of squares in torchjd.
        length = {
            "min": values.min(),
            "median": values.median(),
            "rmse": values.square().mean().sqrt(),
        }[scale]
        aligned = length * left @ right
        assert torch.linalg.cond(aligned).item() == pytest.approx(1)
        update = weights_of(build("aligned", count, scale=scale), rows) @ rows
        torch.testing.assert_close(update, aligned.sum(0), rtol=1e-8, atol=1e-9)


def test_the_update_has_the_same_gain_along_every_direction_of_the_tasks() -> None:
    """What condition number 1 means for the sum: it is the sum of orthogonal vectors of equal
    length."""
    rows = random_rows(4, common=0.7, spread=0.5)
    update = weights_of(build("aligned", 4), rows) @ rows
    shortest = torch.linalg.svdvals(rows).min()
    assert update.norm().item() == pytest.approx(2 * shortest.item())


def test_orthogonal_gradients_are_cut_to_the_shortest() -> None:
    rows = torch.diag(torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64))
    assert weights_of(build("aligned", 3), rows).tolist() == pytest.approx([0.25, 1.0, 0.5])
