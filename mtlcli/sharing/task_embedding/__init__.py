"""The options of `sharing=task_embedding`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import INSIDE, SharingConfig, sharings


@sharings.register("task_embedding", ".trunk:TaskEmbedding")
@section
class TaskEmbeddingSharing(SharingConfig):
    """One backbone conditioned on the task: a learned vector shifts its embeddings and norms
    (Pilault et al. 2021).

    When it helps: many tasks that differ little, so that a shift is enough.

    Cost: size numbers for each task; the maps from them (2 size x hidden for each norm) are shared.
    A pass costs about as much as with `hard`.
    """

    name: Literal["task_embedding"] = "task_embedding"
    """Strategy."""
    conditions: Literal["both", "embeddings", "norms"] = "both"
    """Target of a task's vector: the word embeddings, as with a segment (embeddings), the gain and
    bias of every norm (norms), or both."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Size of a task's vector."""

    def uncompilable(self) -> str | None:
        return None if self.conditions == "embeddings" else INSIDE
