"""What `sharing=attention` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings


@sharings.register("attention", ".trunk:Attention")
@section
class AttentionSharing(SharingConfig):
    """A shared backbone, and for each task soft masks over its features (Liu et al. 2019, MTAN)."""

    name: Literal["attention"] = "attention"
    """Strategy."""
    layers: Layers = "all"
    """Layers over whose features tasks have masks: numbers from 0, -1 is the last; or `all`. Above
    the highest a task's state goes on."""
    size: Annotated[int, Gt(0), Le(65536)] = 32
    """Width of the bottleneck in a mask's network. The paper has none; without one, a task's masks
    would be a quarter of a layer."""
