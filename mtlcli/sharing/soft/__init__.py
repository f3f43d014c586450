"""The options of `sharing=soft`. The strategy itself is in trunk.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from mtlcli.config.section import section
from mtlcli.config.sharing import Layers, SharingConfig, sharings


@sharings.register("soft", ".trunk:Soft")
@section
class SoftSharing(SharingConfig):
    """A copy of the backbone or of some layers for each task, pulled together by a penalty (Duong
    et al. 2015).

    When it helps: related tasks that differ, with enough rows for a model each. With some `layers`,
    the rest of the network is shared.

    Cost: a copy of the chosen layers for each task, and the penalty in every step, a quarter of the
    step with two tasks and half of it with four (MiniLM, scripts/bench/copies.md).
    """

    to_share: ClassVar[str] = "sharing.layers with some of the layers"
    """All but the copied layers are then shared."""
    name: Literal["soft"] = "soft"
    """Strategy."""
    layers: Layers = "all"
    """Layers that every task has a copy of, numbered from 0 (-1 is the last). `all`: the whole
    backbone with its embeddings."""
    strength: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty, lambda."""
    distance: Literal["pairs", "trace_norm", "pretrained"] = "pairs"
    """Penalty: squared distances between every two copies (pairs), the trace norm of the stacked
    copies (trace_norm), or squared distances to the initial weights (pretrained)."""

    @property
    def shares(self) -> bool:
        return self.layers != "all"

    def alone(self) -> str | None:
        if self.distance == "pretrained":
            return None  # Its penalty is on each copy by itself.
        return "there is one copy, and no other to keep it near"

    def unshardable(self) -> str | None:
        if self.distance == "pairs" or self.strength == 0:
            return None
        needs = (
            "the singular values of" if self.distance == "trace_norm" else "the initial weights of"
        )
        return f"with sharing.distance={self.distance} needs {needs} whole copies"

    def idle(self) -> Iterator[tuple[str, str, str]]:
        if self.strength == 0:
            yield (
                "sharing.distance",
                "nothing is penalised (sharing.strength=0)",
                "leave it out, or give sharing.strength",
            )
