"""The options of `sharing=cgc`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import INSIDE, ExpertLayers, Gating, sharings
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("cgc", ".trunk:CGC")
@section
class CGCSharing(Gating):
    """Shared and task-specific experts in one backbone, mixed by a gate for each task (Tang et al.
    2020).

    When it helps: tasks of which one gains and another loses with common experts, the paper's
    "seesaw": experts of its own protect a task.

    Cost: shared + own x tasks feed-forward blocks in each chosen layer; a batch runs through those
    of its task and the shared ones.
    """

    name: Literal["cgc"] = "cgc"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Layers whose feed-forward block becomes experts, each starting as a copy of it: numbers from
    0 (-1 is the last), or `all`. `top`: new blocks behind the last layer."""
    shared: Annotated[int, Ge(0), Le(1000)] = 2
    """Number of shared experts."""
    own: Annotated[int, Ge(0), Le(1000)] = 1
    """Number of experts of each task."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """Noise on the copies' initial weights, relative to their standard deviation; without noise
    they diverge slowly. Not for layers=top."""

    def uncompilable(self) -> str | None:
        return INSIDE

    def gated(self) -> int:
        """Return the smallest number of experts that a gate weighs."""
        return self.shared + self.own

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        yield from super().problems(config, names)
        if self.shared + self.own == 0:
            yield Problem("no task has an expert", "sharing.shared", "give shared or own experts")
