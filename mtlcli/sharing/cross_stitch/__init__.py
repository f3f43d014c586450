"""The options of `sharing=cross_stitch`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import Stitching, sharings


@sharings.register("cross_stitch", ".trunk:CrossStitch")
@section
class CrossStitchSharing(Stitching):
    """A copy of the layers for each task; learned weights mix the copies' states (Misra et al.
    2016)."""

    name: Literal["cross_stitch"] = "cross_stitch"
    """Strategy."""
