"""The options of `sharing=adapter_fusion`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings


@sharings.register("adapter_fusion", ".trunk:AdapterFusion")
@section
class AdapterFusionSharing(SharingConfig):
    """Adapters for each task, and for each task an attention over the adapters of all tasks
    (Pfeiffer et al. 2021).

    When it helps: a small task can use what the adapters of other tasks have learned. The paper
    finds gains mostly on small data sets.

    Cost: each batch goes through the adapters of all tasks in each layer, and a task has 2 keys x
    hidden numbers more in each layer.
    """

    to_share: ClassVar[str] = "sharing.frozen=false"
    """The backbone is then shared."""
    name: Literal["adapter_fusion"] = "adapter_fusion"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 64
    """Width of the adapters' bottleneck."""
    keys: Annotated[int, Gt(0), Le(65536)] = 16
    """Width of the attention's queries and keys."""
    layers: Layers = "all"
    """Layers with adapters, numbered from 0 (-1 is the last), or `all`."""
    frozen: bool = False
    """Train only the parameters of single tasks; the backbone keeps its weights, which should be
    pretrained."""

    @property
    def shares(self) -> bool:
        return not self.frozen

    def alone(self) -> str | None:
        return "there is one task's adapter, and no other to attend to"
