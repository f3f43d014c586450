"""The options of `sharing=mtl_lora`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import INSIDE, LowRank, sharings


@sharings.register("mtl_lora", ".trunk:MTLLoRA")
@section
class MTLLoRASharing(LowRank):
    """Low-rank changes out of shared factors, with a small transformation and a mixture for each
    task (Yang et al. 2024, MTL-LoRA).

    When it helps: many tasks on one large, frozen model, where one change for all makes tasks
    interfere and a change for each shares nothing.

    Cost: r (in + matrices out) shared numbers for each matrix, and r r + matrices more for each
    task.
    """

    name: Literal["mtl_lora"] = "mtl_lora"
    """Strategy."""
    transform: Literal["full", "diagonal"] = "full"
    """Form of a task's transformation between the factors: r x r numbers, or r on the diagonal."""
    matrices: Annotated[int, Gt(0), Le(1000)] = 3
    """Number of matrices B, which each task mixes."""
    temperature: Annotated[float, Gt(0)] = 0.1
    """Divisor of the numbers whose softmax is a task's mixture; the lower it is, the more a task
    keeps to one matrix."""

    def uncompilable(self) -> str | None:
        return INSIDE
