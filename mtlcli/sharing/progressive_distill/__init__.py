"""The options of `sharing=progressive_distill`. The strategy itself is in trunk.py. Imports
no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge

from mtlcli.config.section import section
from mtlcli.config.sharing import Staging, sharings


@sharings.register("progressive_distill", ".trunk:Distilled")
@section
class ProgressiveDistillSharing(Staging):
    """Tasks enter in stages; distillation keeps one backbone near its earlier outputs for the
    earlier tasks (Li & Hoiem 2016)."""

    name: Literal["progressive_distill"] = "progressive_distill"
    """Strategy."""
    strength: Annotated[float, Ge(0)] = 1.0
    """Factor of the distillation term in the loss."""

    def unshardable(self) -> str | None:
        return (
            "runs the backbone with the weights of an earlier stage, all of which each device keeps"
        )
