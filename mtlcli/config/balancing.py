"""Gradient balancing: how K gradients become one update. One dataclass per method; they are
weightings like those of losses."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.errors import Problem


@section
class Balancing(WeightingConfig):
    """What all methods of gradient balancing can be told. `every`, `last_layers` and `projection`
    are approximations."""

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True)
    """What a run must have for it."""
    every: Annotated[int, Gt(0)] = 1
    """Balance every n-th step; the steps between use the last weights again and cost what the plain
    sum costs."""
    last_layers: Annotated[int, Gt(0)] | None = None
    """Take the weights from the gradients of the last n layers of the backbone alone; null: of all
    shared parameters."""
    projection: Annotated[int, Ge(16)] | None = None
    """Take the weights from a random projection of the gradients to this many numbers; null: from
    the gradients."""
    rows: Literal["fp32", "bf16"] = "fp32"
    """Number format in which the tasks' gradients are kept until they are combined."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        if self.last_layers is not None and self.projection is not None:
            what = "the projection cannot be given together with weighting.last_layers"
            yield Problem(what, "weighting.projection", "set one of them to null")


@weightings.register("mgda", "mtlcli.weighting.gradients.mgda:MGDA")
@section
class MGDAWeighting(Balancing):
    """The shortest vector in the convex hull of the gradients (Désidéri 2012; Sener & Koltun
    2018)."""

    name: Literal["mgda"] = "mgda"
    """Method."""
    normalize: Literal["none", "l2", "loss", "loss+"] = "none"
    """What each gradient is divided by before the weights are looked for: its norm (l2), its task's
    loss, or both (loss+). None is the method of the paper; the sample configuration of its authors
    has loss+."""


@weightings.register("pcgrad", "mtlcli.weighting.gradients.pcgrad:PCGrad")
@section
class PCGradWeighting(Balancing):
    """Each gradient is projected onto the normal plane of those it conflicts with (Yu et al.
    2020)."""

    name: Literal["pcgrad"] = "pcgrad"
    """Method."""


@weightings.register("gradvac", "mtlcli.weighting.gradients.gradvac:GradVac")
@section
class GradVacWeighting(Balancing):
    """Gradients are turned towards one another until their cosines are what they were on average
    (Wang et al. 2021)."""

    name: Literal["gradvac"] = "gradvac"
    """Method."""
    beta: Annotated[float, Ge(0), Lt(1)] = 0.01
    """How fast the average of the cosine of two tasks follows: the share of the newest."""


@weightings.register("cagrad", "mtlcli.weighting.gradients.cagrad:CAGrad")
@section
class CAGradWeighting(Balancing):
    """The update near the sum that helps the task it helps least the most (Liu et al. 2021)."""

    needs: ClassVar[Needs] = Needs(
        several_tasks=True, shared_parameters=True, packages=("cvxpy", "clarabel"), extra="cagrad"
    )
    """What a run must have for it."""
    name: Literal["cagrad"] = "cagrad"
    """Method."""
    c: Annotated[float, Ge(0), Lt(1)] = 0.4
    """How far the update may be from the sum, in lengths of the sum; 0 is the sum."""


@weightings.register("imtl_g", "mtlcli.weighting.gradients.imtl_g:IMTLG")
@section
class IMTLGWeighting(Balancing):
    """The update with the same projection onto every gradient (Liu et al. 2021)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """What a run must have for it."""
    name: Literal["imtl_g"] = "imtl_g"
    """Method."""


@weightings.register("aligned", "mtlcli.weighting.gradients.aligned:Aligned")
@section
class AlignedWeighting(Balancing):
    """Aligned-MTL: the principal components of the gradients are made equally long (Senushkin et
    al. 2023)."""

    name: Literal["aligned"] = "aligned"
    """Method."""
    scale: Literal["min", "median", "rmse"] = "min"
    """The common length: that of the shortest principal component (min), the median one, or their
    root mean square."""


@weightings.register("nash", "mtlcli.weighting.gradients.nash:Nash")
@section
class NashWeighting(Balancing):
    """Nash-MTL: the outcome of bargaining, in which every task gains the same share (Navon et al.
    2022)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """What a run must have for it."""
    name: Literal["nash"] = "nash"
    """Method."""
    max_norm: Annotated[float, Gt(0)] | None = 1.0
    """A longer update of the shared parameters is shortened to this length; null: its length stays
    sqrt(K)."""


@weightings.register("fairgrad", "mtlcli.weighting.gradients.fairgrad:FairGrad")
@section
class FairGradWeighting(Balancing):
    """Alpha-fair gains of the tasks (Ban & Ji 2024)."""

    name: Literal["fairgrad"] = "fairgrad"
    """Method."""
    alpha: Annotated[float, Gt(0)] = 2.0
    """Fairness: near 0 the sum of gains counts, 1 is Nash-MTL, the larger the more the task that
    gains least counts."""
    max_norm: Annotated[float, Gt(0)] | None = 1.0
    """A longer update of the shared parameters is shortened to this length; null: never."""


@weightings.register("upgrad", "mtlcli.weighting.gradients.upgrad:UPGrad")
@section
class UPGradWeighting(Balancing):
    """Each gradient is projected onto the cone of directions that harm no task (Quinton & Rey
    2024)."""

    name: Literal["upgrad"] = "upgrad"
    """Method."""


@weightings.register("sdmgrad", "mtlcli.weighting.gradients.sdmgrad:SDMGrad")
@section
class SDMGradWeighting(Balancing):
    """The shortest vector in the hull of the gradients, pulled towards their mean, followed by SGD
    (Xiao, Ban & Ji 2023)."""

    name: Literal["sdmgrad"] = "sdmgrad"
    """Method."""
    pull: Annotated[float, Ge(0)] = 0.3
    """Pull towards the mean gradient, the paper's lambda; 0 is MGDA, the larger the closer to the
    sum."""
    inner_steps: Annotated[int, Gt(0)] = 20
    """Steps of the SGD on the weights in each step of the run."""
    inner_lr: Annotated[float, Gt(0)] = 0.25
    """Learning rate of that SGD. The authors' 10 is far above where it is stable."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Momentum of that SGD."""


@weightings.register("graddrop", "mtlcli.weighting.gradients.graddrop:GradDrop")
@section
class GradDropWeighting(Balancing):
    """In each coordinate, gradients of one sign are kept, drawn by how much the tasks agree (Chen
    et al. 2020)."""

    name: Literal["graddrop"] = "graddrop"
    """Method."""
    leak: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the dropped gradients that is kept; 1 is the plain sum."""
    every: Literal[1] = 1
    """1 alone: the method has no weights that could be used again."""
    last_layers: None = None
    """null alone: every coordinate is drawn for itself."""
    projection: None = None
    """null alone: every coordinate is drawn for itself."""


@weightings.register("conflict_free", "mtlcli.weighting.gradients.conflict_free:ConflictFree")
@section
class ConflictFreeWeighting(Balancing):
    """ConFIG: the direction with the same positive cosine to every gradient, as long as their
    projections together (Liu et al. 2024)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """What a run must have for it."""
    name: Literal["conflict_free"] = "conflict_free"
    """Method."""
