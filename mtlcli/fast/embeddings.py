"""Sparse gradients of word embeddings.

A batch uses few rows of the table. A dense gradient would hold all of them, and every backward pass
would make it anew. The step takes either kind: `mtlcli.training.gradient_rows` keeps only the rows
that a task has touched, and `mtlcli.training.passes.EmbeddingGradients` adds them up.
"""

from __future__ import annotations

from torch import nn

from mtlcli.models.backbone import Backbone


def make_sparse(backbone: Backbone) -> None:
    """Let backward passes leave sparse gradients of the word embeddings of a backbone."""
    # A strategy may have put a module around the table.
    for module in backbone.network.get_input_embeddings().modules():
        if isinstance(module, nn.Embedding):
            module.sparse = True
