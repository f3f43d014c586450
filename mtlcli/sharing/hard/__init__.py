"""The options of `sharing=hard`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings


@sharings.register("hard", ".trunk:Hard")
@section
class HardSharing(SharingConfig):
    """One backbone for all tasks, one head each (Caruana 1997).

    When it helps: tasks that are alike, and small data sets beside large ones. The first thing to
    try.

    Cost: the memory and the time of one model, whatever the number of tasks.
    """

    name: Literal["hard"] = "hard"
    """Strategy."""
