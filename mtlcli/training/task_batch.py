"""The batch of one task in a step: this rank's share in micro-batches, and its counts over all
ranks.

Every loss is normalised by the number of labelled items in the task's batch over all ranks and
micro-batches, so that gradients and losses are simply added up: N ranks with a share each, or one
rank with the whole batch, give the same update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.data.features import Features
from mtlcli.distributed.process_group import Ranks
from mtlcli.tasks.base import FIXED, TaskType

MAX_NAMED_FEATURES = 32
"""The number of features of a batch that a message names."""


@dataclass
class TaskBatch:
    """The batch of one task in a step."""

    micro: list[Batch]
    """This rank's share, cut into micro-batches, in host memory; empty when this rank has no
    example, because the batch has fewer examples than there are ranks."""
    examples: int
    """The number of examples over all ranks."""
    tokens: int
    """The number of tokens over all ranks, without padding."""
    own_tokens: int
    """The number of tokens in this rank's share, without padding."""
    indices: NDArray[np.int64]
    """The indices of the features over all ranks, for messages."""
    inner: list[TaskBatch] = field(default_factory=list)
    """The same examples as the batches of inner steps; empty where there are no inner steps."""


Batches = dict[str, TaskBatch]
"""The batches of a step by task, in the order of the step's tasks."""


def name_features(batch: TaskBatch) -> str:
    """Return a text that names the features of a batch."""
    shown = ", ".join(str(index) for index in sorted(batch.indices.tolist())[:MAX_NAMED_FEATURES])
    return f"train features {shown}" + (
        f" and {len(batch.indices) - MAX_NAMED_FEATURES} more"
        if len(batch.indices) > MAX_NAMED_FEATURES
        else ""
    )


def build_task_batch(
    task: TaskType[Any],
    features: Features,
    indices: NDArray[np.int64],
    *,
    input_format: InputFormat,
    accumulation: int,
    ranks: Ranks,
    max_tokens: int | None = None,
    in_step: bool = False,
    seed: tuple[int, ...] = FIXED,
) -> TaskBatch:
    """Build the batch of a task from its examples `indices`: this rank's share, cut into
    micro-batches, and the counts over all ranks. `max_tokens`: see `collate`. `in_step`: give every
    rank as many micro-batches as rank 0; a further one holds an example that is some other rank's,
    and its loss is 0. `seed`: see `TaskType.drawn`."""
    every = features.members(indices)
    items = task.items(features, every)
    mine = indices[ranks.rank :: ranks.world_size]
    parts = [part for part in np.array_split(mine, accumulation) if len(part)]
    # Rank 0 has the largest share.
    missing = min(accumulation, len(indices[:: ranks.world_size])) - len(parts) if in_step else 0
    micro = [
        task.drawn(
            collate(
                features,
                features.members(part),
                input_format=input_format,
                denominator=denominator,
                examples=examples,
                max_tokens=max_tokens,
            ),
            seed,
        )
        for part, denominator, examples in [
            *((part, items, len(every)) for part in parts),
            *((indices[:1], math.inf, math.inf) for _ in range(missing)),
        ]
    ]
    return TaskBatch(
        micro=micro,
        examples=len(indices),
        tokens=_tokens(features, every),
        own_tokens=_tokens(features, features.members(mine)),
        indices=every,
    )


def build_inner_batches(
    task: TaskType[Any],
    features: Features,
    indices: NDArray[np.int64],
    count: int,
    *,
    seed: tuple[int, ...] = FIXED,
    **options: Any,
) -> list[TaskBatch]:
    """Build the batches of `count` inner steps from the examples of a batch, or of as many as there
    are examples. `options`: those of `build_task_batch`. They are cut before they are shared out,
    so that every number of ranks makes the same steps."""
    return [
        build_task_batch(
            task,
            features,
            part,
            seed=(*seed, number) if seed != FIXED else FIXED,
            **options,
        )
        for number, part in enumerate(np.array_split(indices, count))
        if len(part)
    ]


def _tokens(features: Features, indices: NDArray[np.int64]) -> int:
    return int((features.offsets[indices + 1] - features.offsets[indices]).sum())


def whole_batch(
    task: TaskType[Any],
    features: Features,
    indices: NDArray[np.int64],
    input_format: InputFormat,
    ranks: Ranks,
) -> Batch:
    """Return the examples `indices` as one batch on the device of `ranks`, of which there is one:
    for what reads rows outside of training."""
    made = build_task_batch(
        task, features, indices, input_format=input_format, accumulation=1, ranks=ranks
    )
    return made.micro[0].to(ranks.device)
