"""The options of `sharing=lora`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Gt, Le, MinLen

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from mtlcli.config import Config


@sharings.register("lora", ".trunk:LoRA")
@section
class LoRASharing(SharingConfig):
    """Low-rank changes of one backbone's weight matrices for each task, through peft (Hu et al.
    2022); needs `mtlcli[lora]`.

    When it helps: many tasks on one large pretrained model, with `frozen=true`; or tasks that
    differ a little on a shared backbone.

    Cost: r (in + out) numbers for each changed matrix and task. `mtl export` adds them to the
    matrices, so the exported model costs no more time.
    """

    to_share: ClassVar[str] = "sharing.shared=true"
    """One more part is then shared, also beside a frozen backbone."""
    name: Literal["lora"] = "lora"
    """Strategy."""
    rank: Annotated[int, Gt(0), Le(65536)] = 8
    """Rank of a change, r."""
    alpha: Annotated[float, Gt(0)] = 16.0
    """Scale of the changes, which are multiplied by alpha / r."""
    modules: Literal["auto", "all-linear"] | Annotated[list[str], MinLen(1)] = "auto"
    """Matrices to change: ends of module names, for example [query, value], or `all-linear`.
    `auto`: peft's default for the model."""
    shared: bool = False
    """Add one more change to each of these matrices, shared by all tasks."""
    frozen: bool = False
    """Train only the low-rank changes and heads; the backbone keeps its weights, which should be
    pretrained."""

    @property
    def shares(self) -> bool:
        return self.shared or not self.frozen

    def problems(self, config: Config, names: Collection[str]) -> Iterator[Problem]:
        if find_spec("peft") is None:
            yield Problem(
                "sharing=lora needs the package peft, which is not installed",
                "sharing",
                "type pip install 'mtlcli[lora]'",
            )
