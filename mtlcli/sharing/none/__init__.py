"""The options of `sharing=none`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings


@sharings.register("none", ".trunk:NoSharing")
@section
class NoSharing(SharingConfig):
    """A separate copy of the backbone for each task: the single-task baseline at equal data."""

    name: Literal["none"] = "none"
    """Strategy."""

    @property
    def shares(self) -> bool:
        return False
