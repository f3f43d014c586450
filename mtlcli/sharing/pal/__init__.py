"""The options of `sharing=pal`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("pal", ".trunk:PAL")
@section
class PALSharing(SharingConfig):
    """Projected attention layers: a narrow attention per task in parallel to each layer (Stickland
    & Murray 2019).

    When it helps: many tasks on one pretrained backbone that is trained too, with few numbers for
    each. The paper has GLUE.

    Cost: 2 size x hidden numbers for each task, 3 size x size more for each task and layer, and a
    narrow attention beside each layer.
    """

    generates: ClassVar[bool] = False
    """False, because its attention reads the states of earlier tokens, which are not kept."""
    to_share: ClassVar[str] = "sharing.frozen=false"
    """The backbone is then shared."""
    name: Literal["pal"] = "pal"
    """Strategy."""
    size: Annotated[int, Gt(0), Le(65536)] = 96
    """Width of the attention over all its heads. The paper has 204 for BERT-base, about a quarter
    of the model's width; 96 is a quarter of MiniLM's."""
    heads: Annotated[int, Gt(0), Le(1024)] = 6
    """Attention heads."""
    layers: Layers = "all"
    """Layers with parallel attention, numbered from 0 (-1 is the last), or `all`."""
    frozen: bool = False
    """Train only the parameters of single tasks; the backbone keeps its weights, which should be
    pretrained."""

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
