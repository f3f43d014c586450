"""What is transferred when gradients are summed after the passes; that the sums are right is shown
by real ranks in tests/runs/ddp."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtlcli.distributed.process_group import Ranks
from mtlcli.training.engine import DataParallel


def engine_of(*parameters: torch.nn.Parameter) -> DataParallel:
    """The engine of the first of two ranks, which gives no parameter to torch."""
    given: Any = SimpleNamespace(all=list(parameters), of_all_tasks=[])
    made = DataParallel(given, Ranks(0, 2, torch.device("cpu")))
    made.begin(summed=True)
    return made


def test_only_touched_rows_of_word_embeddings_are_transferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks, of which the other has the same gradients in rows 1 and 7 of the embedding."""
    embedding, matrix, absent = (
        torch.nn.Parameter(torch.zeros(shape)) for shape in ((1000, 4), (3, 5), (2, 2))
    )
    sizes: list[int] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        if tensor.shape == (2, 3):
            tensor += torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
        else:
            # The rows that the two have touched, then the matrix: as the other rank has them.
            tensor += torch.cat(
                [torch.tensor([2.0, 0.0, 2.0]).repeat_interleave(4), torch.ones(15)]
            )
        sizes.append(tensor.numel())

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    monkeypatch.setattr(
        Ranks,
        "all_gather_unique",
        lambda _, ids: torch.unique(torch.cat([ids, torch.tensor([1, 7])])),
    )
    engine = engine_of(embedding, matrix, absent)
    for _ in range(2):
        embedding.grad, matrix.grad = torch.zeros(1000, 4), torch.ones(3, 5)
        embedding.grad[[1, 3]] = 2.0
        engine.sum_rest("both", {embedding: torch.tensor([1, 3, 3])}, ())
        assert absent.grad is None and torch.equal(matrix.grad, torch.full((3, 5), 2.0))
        expected = torch.zeros(1000, 4)
        expected[1], expected[3], expected[7] = 4.0, 2.0, 2.0
        assert torch.equal(embedding.grad, expected)
    # Ranks agree once on which parameters take part in such a step.
    assert sizes == [6, 3 * 4 + 15, 3 * 4 + 15]
    engine.sum_rest("both", {embedding: torch.tensor([1, 3, 3])}, [embedding, matrix])
    assert len(sizes) == 3
    absent.grad = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="1 parameter"):
        engine.sum_rest("both", {}, ())
