"""What `sharing=adapters` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings


@sharings.register("adapters", ".trunk:Adapters")
@section
class AdapterSharing(SharingConfig):
    """A small bottleneck behind each layer of one backbone, one for each task (Houlsby et al. 2019;
    Pfeiffer et al. 2020)."""

    name: Literal["adapters"] = "adapters"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Width of the bottleneck."""
    layers: Layers = "all"
    """Layers that have adapters: numbers from 0, -1 is the last; or `all`."""
    shared: bool = False
    """One adapter more behind each of these layers, for all tasks together."""
    frozen: bool = False
    """Train adapters and heads only: the backbone keeps its weights, which should be pretrained
    ones then."""

    @property
    def shares(self) -> bool:
        return self.shared or not self.frozen
