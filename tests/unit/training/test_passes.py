"""The passes of a step: the gradients of word embeddings."""

from __future__ import annotations

import torch

from mtlcli.training.passes import EmbeddingGradients


def test_sparse_gradients_of_word_embeddings_add_up_to_the_dense_one_in_every_step() -> None:
    torch.manual_seed(0)
    sparse, dense = torch.nn.Embedding(9, 4, sparse=True), torch.nn.Embedding(9, 4)
    dense.load_state_dict(sparse.state_dict())
    scale = torch.nn.Parameter(torch.randn(4))
    gradients = EmbeddingGradients([sparse.weight, scale])
    # The second step touches other embeddings: nothing of the first may be left.
    for groups in ([[0, 3, 3], [3, 5]], [[1, 5]]):
        gradients.begin()
        dense.weight.grad = scale.grad = None
        for ids in groups:
            for embedding in (sparse, dense):
                (embedding(torch.tensor(ids)) * scale).square().sum().backward()
            gradients.add_from_grad()
            assert sparse.weight.grad is None and scale.grad is not None
        gradients.write_to_grad()
        assert sparse.weight.grad is not None and dense.weight.grad is not None
        torch.testing.assert_close(sparse.weight.grad, dense.weight.grad)
        assert set(gradients.touched) == {sparse.weight}
        assert set(gradients.touched[sparse.weight].tolist()) == set(sum(groups, []))
        sparse.weight.grad = None
