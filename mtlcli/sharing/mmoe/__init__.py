"""What `sharing=mmoe` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import ExpertLayers, Gating, sharings


@sharings.register("mmoe", ".trunk:MMoE")
@section
class MMoESharing(Gating):
    """Feed-forward blocks in one backbone as experts, which every task mixes by a gate of its own
    (Ma et al. 2018)."""

    name: Literal["mmoe"] = "mmoe"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Where the experts are: layers, numbered from 0, -1 is the last, whose feed-forward block each
    expert starts as a copy of; `all`; or `top`: new blocks behind the last layer."""
    experts: Annotated[int, Ge(1), Le(1000)] = 4
    """Number of experts. The paper has 8 small ones; these are as large as a feed-forward block."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """In layers: noise on the copies' weights at the start, relative to their standard deviation;
    without any, they part slowly."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.experts

    def idle(self) -> Iterator[tuple[str, str, str]]:
        yield from super().idle()
        if self.layers == "top":
            why = "the experts are new blocks, no copies (sharing.layers=top)"
            yield "sharing.noise", why, "leave it out"
