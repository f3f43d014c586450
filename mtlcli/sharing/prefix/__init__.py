"""The options of `sharing=prefix`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("prefix", ".trunk:Prefix")
@section
class PrefixSharing(SharingConfig):
    """Learned keys and values per task, which the attention of each layer also sees (Li & Liang
    2021; Liu et al. 2022, P-tuning v2).

    When it helps: many tasks on one large, frozen model. P-tuning v2 reports scores near those of
    full fine-tuning for models from 330 million parameters on.

    Cost: 2 length x hidden numbers for each task and layer, and `length` more keys for each token
    to look at.
    """

    to_share: ClassVar[str] = "sharing.frozen=false"
    """The backbone is then shared."""
    name: Literal["prefix"] = "prefix"
    """Strategy."""
    length: Annotated[int, Gt(0), Le(100_000)] = 20
    """Number of keys and values of a task in a layer. They take no positions of the model."""
    layers: Layers = "all"
    """Layers with keys and values of tasks, numbered from 0 (-1 is the last), or `all`."""
    frozen: bool = False
    """Train only the keys and values and the heads; the backbone keeps its weights, which should be
    pretrained."""
    lr: Annotated[float, Gt(0)] = 5e-3
    """Peak learning rate of the keys and values."""

    @property
    def shares(self) -> bool:
        return not self.frozen

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        if config.model.attention == "eager":
            yield Problem(
                "sharing=prefix computes attention with torch's kernel",
                "model.attention",
                "leave it out",
            )
