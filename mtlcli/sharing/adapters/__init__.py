"""The options of `sharing=adapters`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings


@sharings.register("adapters", ".trunk:Adapters")
@section
class AdapterSharing(SharingConfig):
    """A small bottleneck per task behind each layer of one backbone (Houlsby et al. 2019; Pfeiffer
    et al. 2020).

    When it helps: the backbone is good and tasks differ a little; with `frozen=true`, many tasks on
    one pretrained model.

    Cost: 2 size x hidden numbers for each task and layer: with MiniLM and four tasks 1.2 million
    beside 22.7 million.
    """

    to_share: ClassVar[str] = "sharing.shared=true"
    """One more part is then shared, also beside a frozen backbone."""
    name: Literal["adapters"] = "adapters"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Width of the bottleneck."""
    layers: Layers = "all"
    """Layers with adapters, numbered from 0 (-1 is the last), or `all`."""
    shared: bool = False
    """Add one more adapter behind each of these layers, shared by all tasks."""
    frozen: bool = False
    """Train only the adapters and heads; the backbone keeps its weights, which should be
    pretrained."""

    @property
    def shares(self) -> bool:
        return self.shared or not self.frozen
