"""What `sharing=cross_stitch` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import Stitching, sharings


@sharings.register("cross_stitch", ".trunk:CrossStitch")
@section
class CrossStitchSharing(Stitching):
    """A copy of the layers for each task, whose states are mixed by learned weights (Misra et al.
    2016)."""

    name: Literal["cross_stitch"] = "cross_stitch"
    """Strategy."""
