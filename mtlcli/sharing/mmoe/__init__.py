"""The options of `sharing=mmoe`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import INSIDE, ExpertLayers, Gating, sharings


@sharings.register("mmoe", ".trunk:MMoE")
@section
class MMoESharing(Gating):
    """Feed-forward blocks of one backbone as experts, mixed by a gate for each task (Ma et al.
    2018).

    When it helps: tasks that are loosely related: in the paper, the gain over one shared bottom
    grows as the tasks' correlation falls.

    Cost: `experts` feed-forward blocks in each chosen layer, all of which run for each token: with
    MiniLM and one layer 3.6 million numbers more.
    """

    name: Literal["mmoe"] = "mmoe"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Layers whose feed-forward block becomes experts, each starting as a copy of it: numbers from
    0 (-1 is the last), or `all`. `top`: new blocks behind the last layer."""
    experts: Annotated[int, Ge(1), Le(1000)] = 4
    """Number of experts. The paper has 8 small ones; these are as large as a feed-forward block."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """Noise on the copies' initial weights, relative to their standard deviation; without noise
    they diverge slowly. Not for layers=top."""

    def uncompilable(self) -> str | None:
        return None if self.layers == "top" else INSIDE

    def gated(self) -> int:
        """Return the smallest number of experts that a gate weighs."""
        return self.experts

    def idle(self) -> Iterator[tuple[str, str, str]]:
        yield from super().idle()
        if self.layers == "top":
            why = "the experts are new blocks, no copies (sharing.layers=top)"
            yield "sharing.noise", why, "leave it out"
