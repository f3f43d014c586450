"""The options of `sharing=none`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings


@sharings.register("none", ".trunk:NoSharing")
@section
class NoSharing(SharingConfig):
    """A separate copy of the backbone for each task: the single-task baseline at equal data.

    When it helps: it is the baseline: only a comparison with it tells whether sharing helps at all.
    Also where tasks harm one another.

    Cost: a backbone for each task in memory and in each checkpoint. The passes of a step cost as
    much as those of `hard`.
    """

    name: Literal["none"] = "none"
    """Strategy."""

    @property
    def shares(self) -> bool:
        return False
