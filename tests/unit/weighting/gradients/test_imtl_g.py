"""IMTL-G: equal projections onto all gradients."""

from __future__ import annotations

import pytest
import torch

from tests.unit.weighting.gradients.helpers import build, random_rows, weights_of


@pytest.mark.parametrize("count", range(2, 9))
def test_projections_are_equal_and_positive_and_weights_sum_to_k(count: int) -> None:
    for seed in range(5):
        rows = random_rows(count, seed, common=0.2, spread=1.0)
        weights = weights_of(build("imtl_g", count), rows)
        projections = rows @ (weights @ rows) / rows.norm(dim=1)
        assert projections.min().item() > 0
        assert projections.tolist() == pytest.approx([projections[0].item()] * count, rel=1e-7)
        assert weights.sum().item() == pytest.approx(count, rel=1e-9)


def test_equals_the_papers_formula() -> None:
    """Eq. 6: (a_2, ..., a_K) = g_1 U' (D U')^-1, with rows g_1 - g_t in D and u_1 - u_t in U; a_1 =
    1 - the others."""
    for seed in range(5):
        rows = random_rows(4, seed, spread=0.5)
        units = rows / rows.norm(dim=1, keepdim=True)
        differences, unit_differences = rows[0] - rows[1:], units[0] - units[1:]
        others = rows[0] @ unit_differences.T @ torch.linalg.inv(differences @ unit_differences.T)
        expected = torch.cat([1 - others.sum(0, keepdim=True), others])
        torch.testing.assert_close(weights_of(build("imtl_g", 4), rows), 4 * expected)


def test_two_tasks_get_the_bisector() -> None:
    rows = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert weights_of(build("imtl_g", 2), rows).tolist() == pytest.approx([0.4, 1.6])


def test_an_update_that_raises_every_loss_is_a_failure() -> None:
    """u_3 is between u_1 and u_2, so that the vector with equal projections has a negative weight
    for it; it is short, so that this weight is the largest, and weights of sum 1 turn the vector
    round."""
    rows = torch.tensor([[1.0, 0.5, 0.0], [1.0, -0.5, 0.0], [0.1, 0.0, 0.01]], dtype=torch.float64)
    norms = rows.norm(dim=1)
    papers = torch.linalg.solve(rows @ rows.T, norms)
    papers /= papers.sum()
    assert (rows @ (papers @ rows)).max().item() < 0, "the paper's update goes uphill for all"
    with pytest.warns(
        RuntimeWarning, match="no update has the same positive projection.*plain sum"
    ):
        assert weights_of(build("imtl_g", 3), rows).tolist() == [1.0, 1.0, 1.0]


def test_opposed_gradients_are_a_failure() -> None:
    rows = torch.tensor([[1.0, 2.0], [-2.0, -4.0]], dtype=torch.float64)
    with pytest.warns(
        RuntimeWarning, match="no update has the same positive projection.*plain sum"
    ):
        weights_of(build("imtl_g", 2), rows)


def test_a_zero_gradient_is_left_out() -> None:
    rows = random_rows(3, spread=0.5)
    rows[1] = 0
    weights = weights_of(build("imtl_g", 3), rows)
    assert weights[1] == 0
    torch.testing.assert_close(
        weights[[0, 2]] / 3, weights_of(build("imtl_g", 2), rows[[0, 2]]) / 2
    )
