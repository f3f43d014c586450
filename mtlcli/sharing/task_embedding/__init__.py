"""What `sharing=task_embedding` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings


@sharings.register("task_embedding", ".trunk:TaskEmbedding")
@section
class TaskEmbeddingSharing(SharingConfig):
    """One backbone that is told the task: a learned vector shifts its embeddings and norms (Pilault
    et al. 2021)."""

    name: Literal["task_embedding"] = "task_embedding"
    """Strategy."""
    conditions: Literal["both", "embeddings", "norms"] = "both"
    """What a task's vector shifts: the word embeddings, as a segment does, the gain and bias of
    every norm, or both."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Numbers in a task's vector."""
