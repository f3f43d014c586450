"""Perturbed word embeddings, which adversarial augmentations put into a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel
    from mtlcli.tasks.base import Encoded


def encoded_with(model: MultiTaskModel, task: str, batch: Batch, added: Tensor) -> Encoded:
    """Return the encoding of a padded batch whose word embeddings have `added`, (batch, length,
    width), added to them. Where a strategy has several backbones, each that reads the batch gets
    it."""

    def add(_module: Any, _inputs: Any, states: Tensor) -> Tensor:
        return states + added.to(states.dtype)

    with _hooked(model, add):
        return model.encoded(task, batch)


def shape_of(model: MultiTaskModel, batch: Batch) -> tuple[int, int, int]:
    """Return the shape of a batch's word embeddings: (batch, length, width)."""
    tables = _tables(model)
    return (*batch.input_ids.shape, tables[0].embedding_dim)


def _tables(model: MultiTaskModel) -> list[Any]:
    """Return the tables of word embeddings of all backbones of a model."""
    from mtlcli.models.backbone import Backbone

    return [
        table
        for module in model.trunk.modules()
        if isinstance(module, Backbone)
        for table in module.word_embeddings()
    ]


@contextmanager
def _hooked(model: MultiTaskModel, hook: Any) -> Iterator[None]:
    """Let a hook change what the tables of word embeddings give."""
    handles = [table.register_forward_hook(hook) for table in _tables(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
