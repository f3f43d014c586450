"""Sharing strategies: which parameters tasks have in common. One dataclass per strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, MinLen

from mtlcli.config.section import section
from mtlcli.errors import Problem
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


@section
class Gating(ABC):
    """What the strategies with experts have in common."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    gate: Literal["softmax", "dselect_k"] = "softmax"
    """How a task weighs experts: for each token with a softmax (Ma et al. 2018), or by a choice of at most `selected` of them for
    all of the task's tokens (DSelect-k, Hazimeh et al. 2021)."""
    selected: Annotated[int, Ge(1)] = 2
    """With gate=dselect_k: the most experts that keep a weight, k."""
    entropy: Annotated[float, Ge(0)] = 1e-2
    """With gate=dselect_k: factor of the selectors' entropy in the loss; more of it makes them decide sooner."""

    @abstractmethod
    def gated(self) -> int:
        """The fewest experts that a gate weighs."""

    def problems(self) -> Iterator[Problem]:
        """What does not go together."""
        if self.gate == "dselect_k" and not self.selected <= self.gated() > 1:
            what = f"cannot choose {self.selected} of {self.gated()} experts"
            yield Problem(what, "sharing.selected", "lower it, or take gate=softmax or more experts")


ExpertLayers = Annotated[list[int], MinLen(1)] | Literal["all", "top"]
"""Layers of the backbone whose feed-forward blocks become experts, or `top`: blocks behind the last layer."""


@sharings.register("mmoe", "mtlcli.sharing.mmoe:MMoE")
@section
class MMoESharing(Gating):
    """Feed-forward blocks in one backbone as experts, which every task mixes by a gate of its own (Ma et al. 2018)."""

    name: Literal["mmoe"] = "mmoe"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Where the experts are: layers, numbered from 0, -1 is the last, whose feed-forward block each expert starts as a copy of; `all`;
    or `top`: new blocks behind the last layer."""
    experts: Annotated[int, Ge(1)] = 4
    """Number of experts."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """In layers: noise on the copies' weights at the start, relative to their standard deviation; without any, they part slowly."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.experts


@sharings.register("cgc", "mtlcli.sharing.cgc:CGC")
@section
class CGCSharing(Gating):
    """Shared experts and experts of each task's own in one backbone, mixed by a gate for each task (Tang et al. 2020)."""

    name: Literal["cgc"] = "cgc"
    """Strategy."""
    layers: ExpertLayers = field(default_factory=lambda: [-1])
    """Where the experts are: layers, numbered from 0, -1 is the last, whose feed-forward block each expert starts as a copy of; `all`;
    or `top`: new blocks behind the last layer."""
    shared: Annotated[int, Ge(0)] = 2
    """Number of experts that all tasks share."""
    own: Annotated[int, Ge(0)] = 1
    """Number of experts of each task's own."""
    noise: Annotated[float, Ge(0)] = 1e-2
    """In layers: noise on the copies' weights at the start, relative to their standard deviation; without any, they part slowly."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.shared + self.own

    def problems(self) -> Iterator[Problem]:
        """What does not go together."""
        yield from super().problems()
        if self.shared + self.own == 0:
            yield Problem("no task has an expert", "sharing.shared", "give shared or own experts")


@sharings.register("ple", "mtlcli.sharing.ple:PLE")
@section
class PLESharing(Gating):
    """Levels of shared experts and experts of each task's own on top of one backbone (Tang et al. 2020)."""

    name: Literal["ple"] = "ple"
    """Strategy."""
    levels: Annotated[int, Ge(1)] = 2
    """Number of levels; one level is CGC on top."""
    shared: Annotated[int, Ge(1)] = 2
    """Number of experts in each level that all tasks share."""
    own: Annotated[int, Ge(1)] = 1
    """Number of experts in each level of each task's own."""

    def gated(self) -> int:
        """The fewest experts that a gate weighs."""
        return self.shared + self.own


@section
class Stitching:
    """What the strategies that mix task copies have in common."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    layers: Layers = "all"
    """Layers after which the copies' states are mixed: numbers from 0, -1 is the last. Every layer that is trained has copies."""
    own: Annotated[float, Ge(0), Le(1)] = 0.9
    """How much of its own states a copy keeps at the start; the rest comes from all others alike."""
    lr: Annotated[float, Gt(0)] = 1e-2
    """Peak learning rate of the mixing weights."""


@sharings.register("cross_stitch", "mtlcli.sharing.cross_stitch:CrossStitch")
@section
class CrossStitchSharing(Stitching):
    """A copy of the layers for each task, whose states are mixed by learned weights (Misra et al. 2016)."""

    name: Literal["cross_stitch"] = "cross_stitch"
    """Strategy."""


@sharings.register("sluice", "mtlcli.sharing.sluice:Sluice")
@section
class SluiceSharing(Stitching):
    """Cross-stitch over subspaces that are kept apart, and heads that read a mixture of layers (Ruder et al. 2019)."""

    name: Literal["sluice"] = "sluice"
    """Strategy."""
    subspaces: Annotated[int, Ge(1)] = 2
    """Equal parts of the states' channels that are mixed by themselves."""
    orthogonality: Annotated[float, Ge(0)] = 1e-3
    """Factor of the penalty on subspaces that say the same."""
    last: Annotated[float, Ge(0), Le(1)] = 0.9
    """How much of the last layer a task reads at the start; the rest comes from all others alike."""
