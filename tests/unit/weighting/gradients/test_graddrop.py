"""GradDrop: one sign per coordinate."""

from __future__ import annotations

import pytest
import torch
from torchjd.aggregation import GradDrop

from mtlcli.weighting.gradients.base import drawing
from tests.unit.weighting.gradients.helpers import build, random_rows, step_of


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [2, 4])
def test_equals_torchjd_with_the_same_draws(count: int, leak: float) -> None:
    for number in range(5):
        rows = random_rows(count, number, size=200, spread=0.5).float()
        step = step_of(rows, number)
        with drawing(step):
            expected = GradDrop(leak=torch.full((count,), leak))(rows)
        torch.testing.assert_close(
            build("graddrop", count, leak=leak).combine(step, rows, 0, 200), expected
        )


@pytest.mark.parametrize("cuts", [[0, 100], [0, 1, 37, 100], [0, 50, 100]])
def test_however_columns_are_cut_the_result_is_the_same(cuts: list[int]) -> None:
    rows = random_rows(3, size=100).float()
    step = step_of(rows, 4)
    whole = build("graddrop", 3).combine(step, rows, 0, 100)
    method = build("graddrop", 3)
    blocks = [
        method.combine(step, rows[:, start:end], start, 100)
        for start, end in zip(cuts, cuts[1:], strict=False)
    ]
    assert torch.equal(torch.cat(blocks), whole)
    # Another rank, in another order, and after another step.
    other = build("graddrop", 3)
    other.combine(step_of(rows, 3), rows, 0, 100)
    assert torch.equal(other.combine(step, rows[:, 60:], 60, 100), whole[60:])


def test_where_all_agree_it_is_the_sum() -> None:
    rows = random_rows(3, size=1000).abs().float()
    rows[:, ::2] *= -1
    rows[1, :100] = 0
    rows[:, 7] = 0
    for number in range(5):
        torch.testing.assert_close(
            build("graddrop", 3).combine(step_of(rows, number), rows, 0, 1000), rows.sum(0)
        )


def test_a_sign_is_kept_as_often_as_it_is_pure() -> None:
    """P = 3 / 4 for the column (2, 1, -1): the sum of the positive ones in 3 of 4 draws, on average
    the sum of all."""
    rows = torch.tensor([[2.0], [1.0], [-1.0]]).repeat(1, 40_000)
    update = build("graddrop", 3).combine(step_of(rows), rows, 0, 40_000)
    assert set(update.tolist()) == {3.0, -1.0}
    assert (update > 0).double().mean().item() == pytest.approx(0.75, abs=0.01)
    assert update.mean().item() == pytest.approx(2.0, abs=0.04)


def test_leak_keeps_a_share_of_what_is_dropped() -> None:
    rows = torch.tensor([[2.0], [1.0], [-1.0]]).repeat(1, 100)
    update = build("graddrop", 3, leak=0.25).combine(step_of(rows), rows, 0, 100)
    assert set(update.tolist()) == {2.75, -0.25}
    assert set(build("graddrop", 3, leak=1.0).combine(step_of(rows), rows, 0, 100).tolist()) == {
        2.0
    }


def test_draws_change_with_step_and_seed() -> None:
    rows = torch.tensor([[1.0], [-1.0]]).repeat(1, 100)
    method = build("graddrop", 2)
    results = [
        method.combine(step_of(rows, number, seed=seed), rows, 0, 100)
        for number, seed in ((0, 5), (1, 5))
    ]
    results.append(build("graddrop", 2).combine(step_of(rows, 0, seed=6), rows, 0, 100))
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_it_has_no_weights() -> None:
    method = build("graddrop", 3, [2.0, 0.5, 1.0])
    step = step_of(random_rows(3))
    assert method.known(step) == "rows" and method.weights(step) == {
        "ant": 1.0,
        "bee": 1.0,
        "cat": 1.0,
    }
    assert step.gram is not None
    with pytest.raises(TypeError, match="GradDrop has no weights"):
        method.solve(step, step.gram)
    with pytest.raises(TypeError, match="PCGrad gives weights"):
        build("pcgrad", 3).combine(step, random_rows(3), 0, 30)
