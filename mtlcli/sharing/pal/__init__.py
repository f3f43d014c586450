"""What `sharing=pal` can be given. The strategy itself is in trunk.py. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("pal", ".trunk:PAL")
@section
class PALSharing(SharingConfig):
    """Projected attention layers: a narrow attention for each task in parallel to each layer
    (Stickland & Murray 2019)."""

    name: Literal["pal"] = "pal"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 96
    """Width of the attention, over all its heads. The paper has 204 for BERT-base, about a quarter
    of its channels; 96 is a quarter of MiniLM's."""
    heads: Annotated[int, Gt(0), Le(1024)] = 6
    """Attention heads."""
    layers: Layers = "all"
    """Layers that have attention in parallel: numbers from 0, -1 is the last; or `all`."""
    frozen: bool = False
    """Train what belongs to one task only: the backbone keeps its weights, which should be
    pretrained ones then."""

    @property
    def shares(self) -> bool:
        return not self.frozen

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        if self.size % self.heads:
            yield Problem(
                f"sharing.size={self.size} is not a multiple of {self.heads}",
                "sharing.heads",
                "change one of them",
            )
