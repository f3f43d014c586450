"""The options of `sharing=sluice`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Stitching, sharings


@sharings.register("sluice", ".trunk:Sluice")
@section
class SluiceSharing(Stitching):
    """Cross-stitch over separate subspaces, with heads that read a mixture of layers (Ruder et al.
    2019).

    When it helps: as `cross_stitch`, where tasks may share some subspaces and layers and not
    others. The paper has sequence tagging across domains.

    Cost: as `cross_stitch`, and the penalty: a product of two parts of a feed-forward matrix for
    each task and layer.
    """

    name: Literal["sluice"] = "sluice"
    """Strategy."""
    subspaces: Annotated[int, Ge(1), Le(65536)] = 2
    """Number of equal parts of the states' channels, each with mixing weights of its own."""
    orthogonality: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty on redundant subspaces; 0: none, the default of the authors' code. The
    paper gives no value."""
    last: Annotated[float, Ge(0), Le(1)] = 0.9
    """Initial share of the last layer in what a task reads; the others have equal shares of the
    rest."""
