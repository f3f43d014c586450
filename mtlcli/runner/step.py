"""One step: the backward passes of its tasks and their sum over micro-batches and ranks.

Every loss is normalised by the number of labelled items in the task's batch over all ranks and micro-batches, so that
gradients and losses are simply added up: N ranks with a share each, or one rank with all, give the same update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlcli.data.batches import Batch, collate
from mtlcli.data.features import Features
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.runner.distributed import Ranks
from mtlcli.tasks.base import TaskType
from mtlcli.weighting.base import LossWeighting


@dataclass
class TaskBatch:
    """The batch of one task in a step."""

    micro: list[Batch]
    """This rank's share, cut into micro-batches; empty when the batch has fewer examples than there are ranks."""
    examples: int
    """Features over all ranks."""
    tokens: int
    """Tokens over all ranks, without padding."""
    padded: int
    """Tokens of this rank's share, with padding."""
    padding: int
    """Padding in this rank's share."""
    rows: NDArray[np.int64]
    """Features over all ranks, for messages."""


def cut(
    task: TaskType[Any],
    features: Features,
    indices: NDArray[np.int64],
    *,
    pad_id: int,
    uses_segments: bool,
    accumulation: int,
    ranks: Ranks,
) -> TaskBatch:
    """This rank's share of the features `indices` of a task, in micro-batches."""
    items = float(task.items(features, indices))
    mine = indices[ranks.rank :: ranks.world]
    parts = [part for part in np.array_split(mine, accumulation) if len(part)]
    micro = [collate(features, part, pad_id=pad_id, uses_segments=uses_segments, denominator=items) for part in parts]
    return TaskBatch(
        micro=[batch.to(ranks.device) for batch in micro],
        examples=len(indices),
        tokens=_tokens(features, indices),
        padded=(padded := sum(batch.input_ids.numel() for batch in micro)),
        padding=padded - _tokens(features, mine),
        rows=indices,
    )


def _tokens(features: Features, indices: NDArray[np.int64]) -> int:
    return int((features.offsets[indices + 1] - features.offsets[indices]).sum())


def backward(
    model: MultiTaskModel, weighting: LossWeighting, batches: dict[str, TaskBatch], ranks: Ranks, *, bf16: bool
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Fill `.grad` of the model's and the weighting's parameters; return each task's mean loss and its weight.

    Gradients of tasks are accumulated one micro-batch at a time: one activation set is alive at any moment.
    """
    weights = weighting.weights(list(batches))
    losses = torch.zeros(len(batches), device=ranks.device)
    for index, (name, batch) in enumerate(batches.items()):
        for micro in batch.micro:
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16):
                loss = model(name, micro).loss
            (weights[name] * loss).backward()
            losses[index] += loss.detach()
    penalty = model.trunk.penalty()
    if penalty is not None:
        (penalty / ranks.world).backward()
    ranks.add(losses)
    ranks.reduce_gradients(list(model.parameters()))
    mean = dict(zip(batches, losses.unbind(), strict=True))
    if weighting.parameters():
        # The same losses on every rank: the same gradient, nothing to reduce.
        weighting.objective({name: loss.cpu() for name, loss in mean.items()}).backward()
    return mean, weights
