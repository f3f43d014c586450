"""Sharing strategies: which parameters tasks have in common. One dataclass per strategy."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, MinLen

from mtlcli.config.section import section
from mtlcli.registry import Registry

sharings = Registry("sharing")


@sharings.register("hard", "mtlcli.sharing.hard:Hard")
@section
class HardSharing:
    """One backbone for all tasks, one head each (Caruana 1997)."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["hard"] = "hard"
    """Strategy."""


@sharings.register("none", "mtlcli.sharing.none:NoSharing")
@section
class NoSharing:
    """A separate copy of the backbone for each task: the single-task baseline at equal data."""

    shares: ClassVar[bool] = False
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["none"] = "none"
    """Strategy."""


Layers = Annotated[list[int], MinLen(1)] | Literal["all"]
"""Layers of the backbone by number, from 0; negative ones count from the top."""


@sharings.register("soft", "mtlcli.sharing.soft:Soft")
@section
class SoftSharing:
    """A copy of the backbone, or of some layers, for each task, pulled together by a penalty (Duong et al. 2015)."""

    name: Literal["soft"] = "soft"
    """Strategy."""
    layers: Layers = "all"
    """Layers of which every task has a copy: numbers from 0, -1 is the last; `all`: the whole backbone with its embeddings."""
    strength: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty, lambda."""
    distance: Literal["pairs", "trace_norm", "pretrained"] = "pairs"
    """What is penalised: squared distances between every two tasks' copies, the trace norm of the stacked copies, or squared distances
    to the weights at the start."""

    @property
    def shares(self) -> bool:
        """Whether tasks have parameters in common, which gradient balancing needs."""
        return self.layers != "all"
