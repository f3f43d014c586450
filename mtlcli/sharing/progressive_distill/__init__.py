"""The options of `sharing=progressive_distill`. The strategy itself is in trunk.py. Imports
no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from mtlcli.config.section import section
from mtlcli.config.sharing import Staging, sharings
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("progressive_distill", ".trunk:Distilled")
@section
class ProgressiveDistillSharing(Staging):
    """Tasks enter in stages; distillation keeps one backbone near its earlier outputs for the
    earlier tasks (Li & Hoiem 2016).

    When it helps: tasks that come one after another, when earlier data are not to be drawn again
    and there is memory for one backbone.

    Cost: from the second stage on, a second pass for each batch, and the weights of the stage
    before in memory.
    """

    name: Literal["progressive_distill"] = "progressive_distill"
    """Strategy."""
    strength: Annotated[float, Ge(0)] = 1.0
    """Factor of the distillation term in the loss."""

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        yield from super().problems(config, names)
        for name, task in config.tasks.items():
            if task.writes and self.strength > 0:
                yield Problem(
                    f"distillation compares what a head says for the inputs of other tasks, and "
                    f"the head of task '{name}' reads more of its own inputs than their text",
                    "sharing",
                    "type sharing=progressive, or leave the task out",
                )

    def no_text(self) -> str | None:
        return "compares the outputs of earlier heads, which tasks in the form of text do not have"

    def unshardable(self) -> str | None:
        return (
            "runs the backbone with the weights of an earlier stage, all of which each device keeps"
        )
