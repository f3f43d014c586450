"""The options of `sharing=cross_stitch`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import Stitching, sharings


@sharings.register("cross_stitch", ".trunk:CrossStitch")
@section
class CrossStitchSharing(Stitching):
    """A copy of the layers for each task; learned weights mix the copies' states (Misra et al.
    2016).

    When it helps: few tasks, and nobody knows what they should share: the weights say it at the
    end. In the paper, classes with few examples gain most.

    Cost: a copy of the layers for each task, and all copies run for each batch: with MiniLM 2.0,
    3.9 and 8.1 times the time of `hard` for 2, 4 and 8 tasks.
    """

    name: Literal["cross_stitch"] = "cross_stitch"
    """Strategy."""
