"""Gradient rows: blocks of several parameters, as on a GPU, give the same inner products."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from mtlcli.distributed.process_group import Ranks
from mtlcli.training import gradient_rows
from mtlcli.training.gradient_rows import GradientRows


@pytest.mark.parametrize("chunk", [1, 40, 1 << 16])
def test_blocks_of_several_parameters_give_the_same_inner_products(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gradients that are missing or sparse, and a parameter wider than a chunk."""
    random = torch.Generator().manual_seed(0)
    shapes = [(9, 3), (4,), (5, 5), (2, 2), (7,)]
    parameters = [Parameter(torch.zeros(shape)) for shape in shapes]
    rows = GradientRows(parameters, Ranks(0, 1, torch.device("cpu")))
    expected = []
    for missing in ({1}, {1, 4}, {1, 2}):
        for place, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=random)
            if place in missing:
                parameter.grad = None
        touched = torch.randint(0, 9, (4,), generator=random)
        values = torch.randn(4, 3, generator=random)
        parameters[0].grad = torch.sparse_coo_tensor(touched[None], values, (9, 3))
        expected.append(
            torch.cat(
                [
                    torch.zeros(each.numel()) if each.grad is None else each.grad.to_dense().ravel()
                    for each in parameters
                ]
            )
        )
        rows.append_from_grad()
    rows.agree_on_columns()
    whole = torch.stack(expected).double()
    monkeypatch.setitem(gradient_rows.CHUNK, "cpu", chunk)
    for found in (rows.gram(), rows._products(rows._joined_blocks())):
        torch.testing.assert_close(found, whole @ whole.T, atol=1e-5, rtol=1e-5)
    rows.combine([1.0, -2.0, 0.5], reduced=False)
    combined = [
        torch.zeros(each.numel()) if each.grad is None else each.grad.ravel() for each in parameters
    ]
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(torch.cat(combined).double(), weights @ whole, atol=1e-6, rtol=1e-5)
    assert parameters[1].grad is None
