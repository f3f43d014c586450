"""What `sharing=progressive` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Staging, sharings


@sharings.register("progressive", ".trunk:Columns")
@section
class ProgressiveSharing(Staging):
    """Tasks enter in stages: each has a backbone of its own that reads the earlier ones, which stay
    as they are (Rusu et al. 2016)."""

    name: Literal["progressive"] = "progressive"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 32
    """Width of the bottleneck in a lateral connection."""
