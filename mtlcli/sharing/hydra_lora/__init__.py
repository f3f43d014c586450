"""The options of `sharing=hydra_lora`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import INSIDE, LowRank, sharings


@sharings.register("hydra_lora", ".trunk:HydraLoRA")
@section
class HydraLoRASharing(LowRank):
    """Low-rank changes with one shared A and several B, which a router mixes for each token (Tian
    et al. 2024, HydraLoRA).

    When it helps: data of unlike parts, where the task does not tell the parts apart: the router
    sees tokens alone.

    Cost: one A, `matrices` B and a router for each matrix, whatever the number of tasks. All B run
    for each token.
    """

    name: Literal["hydra_lora"] = "hydra_lora"
    """Strategy."""
    matrices: Annotated[int, Gt(0), Le(1000)] = 3
    """Number of matrices B."""

    def uncompilable(self) -> str | None:
        return INSIDE
