"""What `sharing=cgc` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import ExpertLayers, Gating, sharings
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("cgc", ".trunk:CGC")
@section
class CGCSharing(Gating):
    """Shared experts and experts of each task's own in one backbone, mixed by a gate for each task
    (Tang et al. 2020)."""

    name: Literal["cgc"] = "cgc"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Where the experts are: layers, numbered from 0, -1 is the last, whose feed-forward block each
    expert starts as a copy of; `all`; or `top`: new blocks behind the last layer."""
    shared: Annotated[int, Ge(0), Le(1000)] = 2
    """Number of experts that all tasks share."""
    own: Annotated[int, Ge(0), Le(1000)] = 1
    """Number of experts of each task's own."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """In layers: noise on the copies' weights at the start, relative to their standard deviation;
    without any, they part slowly."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.shared + self.own

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        yield from super().problems(config, names)
        if self.shared + self.own == 0:
            yield Problem("no task has an expert", "sharing.shared", "give shared or own experts")
