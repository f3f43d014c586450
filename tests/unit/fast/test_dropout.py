"""Cheap dropout: the distribution of torch's, the mean of its input, and a pure function of torch's
seed."""

from __future__ import annotations

import pytest
import torch

from mtlcli.fast.dropout import CheapDropout, cheapen
from mtlcli.sharing.parts.stacked import Stacked


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_it_drops_as_many_as_it_says_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    count = 400_000
    out = CheapDropout(probability)(torch.ones(count))
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(
        1 - probability, abs=5 * (probability * (1 - probability) / count) ** 0.5
    )
    assert out[kept].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-4)
    # Each of the four elements that share a draw by itself, and no two of them together.
    quarters = kept.view(-1, 4).float()
    assert quarters.mean(0).tolist() == pytest.approx([1 - probability] * 4, abs=0.01)
    correlation = torch.corrcoef(quarters.T) - torch.eye(4)
    assert correlation.abs().max() < 0.015
    assert torch.corrcoef(torch.stack([kept[:-1].float(), kept[1:].float()]))[0, 1].abs() < 0.01


def test_gradients_are_those_of_what_was_kept() -> None:
    torch.manual_seed(0)
    states = torch.randn(3, 5, 7, requires_grad=True)
    out = CheapDropout(0.4)(states)
    out.sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad * states, out)


def test_the_seed_decides_which_elements_are_dropped() -> None:
    dropout = CheapDropout(0.5)
    states = torch.ones(1001)
    torch.manual_seed(3)
    first, second = dropout(states), dropout(states)
    torch.manual_seed(3)
    assert torch.equal(dropout(states), first) and not torch.equal(first, second)


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    states = torch.randn(10)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(CheapDropout(0.5).eval()(states), states)
    assert torch.equal(CheapDropout(0.0)(states), states)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(CheapDropout(1.0)(states), torch.zeros(10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    assert CheapDropout(0.3)(torch.ones(8, dtype=dtype)).dtype == dtype


def test_modules_are_replaced_except_where_copies_run_at_once() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.2))
    stacked = Stacked(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.2)), 2)
    cheapen(torch.nn.Sequential(inner, stacked))
    assert type(inner[1]) is CheapDropout and inner[1].p == 0.2
    assert type(stacked.template[1]) is torch.nn.Dropout  # type: ignore[index]
