"""What is transferred when gradients are summed; that the sums are right is shown by real ranks in
the other files."""

from __future__ import annotations

import pytest
import torch

from mtlcli.distributed.process_group import Ranks


def test_only_touched_rows_of_word_embeddings_are_transferred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks, of which the other has the same gradients in rows 1 and 7 of the embedding."""
    embedding, matrix, absent = (
        torch.nn.Parameter(torch.zeros(shape)) for shape in ((1000, 4), (3, 5), (2, 2))
    )
    embedding.grad, matrix.grad = torch.zeros(1000, 4), torch.ones(3, 5)
    embedding.grad[[1, 3]] = 2.0
    sizes: list[int] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        if sizes:
            # The rows that the two have touched, then the matrix: as the other rank has them.
            tensor += torch.cat(
                [torch.tensor([2.0, 0.0, 2.0]).repeat_interleave(4), torch.ones(15)]
            )
        else:
            tensor += torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
        sizes.append(tensor.numel())

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    monkeypatch.setattr(
        Ranks,
        "all_gather_unique",
        lambda _, ids: torch.unique(torch.cat([ids, torch.tensor([1, 7])])),
    )
    Ranks(0, 2, torch.device("cpu")).reduce_gradients(
        [embedding, matrix, absent], {embedding: torch.tensor([1, 3, 3])}
    )
    assert sizes == [6, 3 * 4 + 15] and absent.grad is None
    assert torch.equal(matrix.grad, torch.full((3, 5), 2.0))
    expected = torch.zeros(1000, 4)
    expected[1], expected[3], expected[7] = 4.0, 2.0, 2.0
    assert torch.equal(embedding.grad, expected)
