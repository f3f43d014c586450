"""Sparse gradients of word embeddings.

A batch uses few rows of the table. A dense gradient would hold all of them, and every backward pass
would make it anew. The step takes either kind: `mtlcli.training.gradient_rows` keeps only the rows
that a task has touched, and `mtlcli.training.passes.EmbeddingGradients` adds them up.
"""

from __future__ import annotations

from mtlcli.models.backbone import Backbone

LARGE = 2**30
"""The number of bytes of gradient rows from which those of word embeddings are sparse on a GPU.
Sparse gradients take a dozen launches and a wait for each task there."""


def make_sparse(backbone: Backbone) -> None:
    """Let backward passes leave sparse gradients of the word embeddings of a backbone, unless they
    are the weights of its language head too, which have a gradient for every token."""
    if backbone.language_head is not None and backbone.language_head.tied:
        return
    for table in backbone.word_embeddings():
        table.sparse = True


def rows_are_large(backbone: Backbone, tasks: int) -> bool:
    """Return whether dense gradient rows of the word embeddings take much memory."""
    return tasks * sum(table.weight.nbytes for table in backbone.word_embeddings()) > LARGE
