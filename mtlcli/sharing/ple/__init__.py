"""What `sharing=ple` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Gating, sharings


@sharings.register("ple", ".trunk:PLE")
@section
class PLESharing(Gating):
    """Levels of shared experts and experts of each task's own on top of one backbone (Tang et al.
    2020)."""

    name: Literal["ple"] = "ple"
    """Strategy."""
    levels: Annotated[int, Ge(1), Le(100)] = 2
    """Number of levels; one level is CGC on top."""
    shared: Annotated[int, Ge(1), Le(1000)] = 2
    """Number of experts in each level that all tasks share."""
    own: Annotated[int, Ge(1), Le(1000)] = 1
    """Number of experts in each level of each task's own."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.shared + self.own
