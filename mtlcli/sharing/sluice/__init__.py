"""What `sharing=sluice` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Stitching, sharings


@sharings.register("sluice", ".trunk:Sluice")
@section
class SluiceSharing(Stitching):
    """Cross-stitch over subspaces that are kept apart, and heads that read a mixture of layers
    (Ruder et al. 2019)."""

    name: Literal["sluice"] = "sluice"
    """Strategy."""
    subspaces: Annotated[int, Ge(1), Le(65536)] = 2
    """Equal parts of the states' channels that are mixed by themselves."""
    orthogonality: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty on subspaces that say the same; 0: none, as in the authors' code unless
    it is asked for. The paper gives no value."""
    last: Annotated[float, Ge(0), Le(1)] = 0.9
    """How much of the last layer a task reads at the start; the rest comes from all others
    alike."""
