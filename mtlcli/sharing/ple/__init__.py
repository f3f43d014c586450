"""The options of `sharing=ple`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Gating, sharings


@sharings.register("ple", ".trunk:PLE")
@section
class PLESharing(Gating):
    """Levels of shared and task-specific experts on top of one backbone (Tang et al. 2020).

    When it helps: as `cgc`, where one level of experts does not separate the tasks.

    Cost: as `cgc` in each level, and below the last level the experts of all tasks run for each
    batch.
    """

    name: Literal["ple"] = "ple"
    """Strategy."""
    levels: Annotated[int, Ge(1), Le(100)] = 2
    """Number of levels; one level is CGC on top."""
    shared: Annotated[int, Ge(1), Le(1000)] = 2
    """Number of shared experts in each level."""
    own: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of experts of each task in each level."""

    def gated(self) -> int:
        """Return the smallest number of experts that a gate weighs."""
        return self.shared + self.own
