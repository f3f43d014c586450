"""The options of `sharing=progressive`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Staging, sharings


@sharings.register("progressive", ".trunk:Columns")
@section
class ProgressiveSharing(Staging):
    """Tasks enter in stages; each stage has a backbone that reads the earlier, frozen ones (Rusu et
    al. 2016).

    When it helps: tasks that come one after another, when what earlier ones have learned must not
    change.

    Cost: a whole backbone for each stage; a batch of stage k runs through k of them.
    """

    generates: ClassVar[bool] = False
    """False, because each column would have to keep keys and values of its own."""
    name: Literal["progressive"] = "progressive"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 32
    """Width of the bottleneck in a lateral connection."""
