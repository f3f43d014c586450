"""PCGrad: conflicts are projected away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.weighting.gradients.helpers import (
    build,
    random_rows,
    step_of,
    update_of,
    weights_of,
)


def on_rows(rows: Tensor, orders: list[list[int]]) -> Tensor:
    """Algorithm 1 of the paper on the gradients themselves."""
    total = torch.zeros_like(rows[0])
    for i, order in enumerate(orders):
        own = rows[i].clone()
        for j in order:
            if j != i and own @ rows[j] < 0:
                own -= (own @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += own
    return total


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_equals_the_paper_on_rows_with_the_same_orders(count: int) -> None:
    for number in range(10):
        rows = random_rows(count, number, size=6, spread=0.5)
        generator = step_of(rows, number).generator()
        orders = [torch.randperm(count, generator=generator).tolist() for _ in range(count)]
        torch.testing.assert_close(
            update_of(build("pcgrad", count), rows, number), on_rows(rows, orders)
        )


def test_closed_form_and_no_conflict_left_for_two_tasks() -> None:
    conflicts = 0
    for seed in range(30):
        rows = random_rows(2, seed, size=4, spread=0.5)
        gram = rows @ rows.T
        inner = min(gram[0, 1].item(), 0.0)
        conflicts += inner < 0
        weights = weights_of(build("pcgrad", 2), rows)
        assert weights.tolist() == pytest.approx(
            [1 - inner / gram[0, 0].item(), 1 - inner / gram[1, 1].item()]
        )
        assert (rows @ (weights @ rows)).min().item() >= -1e-9
    assert 5 < conflicts < 25


def test_no_conflict_no_change() -> None:
    rows = random_rows(4, size=10).abs()
    assert weights_of(build("pcgrad", 4), rows).tolist() == [1.0] * 4


def test_worked_example() -> None:
    """g_1 = (1, 0), g_2 = (-1, 1): the parts left are (1/2, 1/2) and (0, 1)."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    assert update_of(build("pcgrad", 2), rows).tolist() == pytest.approx([0.5, 1.5])


def test_orders_change_from_step_to_step() -> None:
    rows = random_rows(5, 3, size=4)
    assert (
        len({tuple(weights_of(build("pcgrad", 5), rows, number).tolist()) for number in range(10)})
        > 3
    )
