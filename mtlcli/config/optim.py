"""Optimisers and the schedule of the learning rate. One dataclass per optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import Registry

optims = Registry("optimiser")


@section
class Optim:
    """The base class of the configurations of optimisers."""

    packages: ClassVar[tuple[str, ...]] = ()
    """Imported packages that mtlcli does not depend on; the extra of mtlcli with the optimiser's
    name installs them."""
    shardable: ClassVar[bool] = False
    """Whether updates take every number by itself, so that each device can update its shard of a
    parameter (`runner.engine=fsdp`)."""
    relative_lr: ClassVar[float] = 1.0
    """Factor of the model's learning rate, which is meant for AdamW, if `lr` is null."""
    name: str
    """Optimiser."""
    lr: Annotated[float, Gt(0), Le(1e30)] | None = None
    """Peak learning rate; null: one that suits the model and the optimiser."""
    lr_factor: Annotated[float, Gt(0), Le(1000)] = 1.0
    """With lr null: factor of the learning rate that suits the model and the optimiser."""
    weight_decay: Annotated[float, Ge(0), Le(1000)] = 0.01
    """Decoupled weight decay."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "wsd"] = "linear"
    """Decay after the warm-up: to zero in a straight line (linear) or along half a cosine wave
    (cosine); none (constant); with one over the square root of the steps (inverse_sqrt); or none
    until the last `decay` steps, then to zero in a straight line (wsd: warm-up, stable, decay)."""
    warmup: Annotated[float, Ge(0)] = 0.06
    """Length of the warm-up: a share of all steps if below 1, else a number of steps."""
    decay: Annotated[float, Gt(0)] | None = None
    """With schedule=wsd: length of the decay at the end, as a share of all steps if below 1, else a
    number of steps; null: 0.2."""
    clip: Annotated[float, Gt(0)] | None = 1.0
    """Largest norm of the whole gradient; null: no clipping."""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Learning rate of each layer relative to the layer above it (Howard & Ruder 2018,
    discriminative fine-tuning)."""
    unfreeze_every: Annotated[int, Gt(0)] | None = None
    """Gradual unfreezing (Howard & Ruder 2018): train only what lies above the layers at first, and
    unfreeze one more layer every so many steps, from the top down, the embeddings last; null: train
    all from the start."""

    plateau: Annotated[int, Gt(0)] | None = None
    """Learning rates by progress: after so many evaluations in a row without a gain of a task's
    main validation score, the learning rate of the parameters that belong to the task alone (its
    head, its adapters) is multiplied by `plateau_factor`; null: never."""
    plateau_gain: Annotated[float, Ge(0)] = 0.0
    """With plateau: a score counts as a gain if it is more than this above the task's best."""
    plateau_factor: Annotated[float, Gt(0), Lt(1)] = 0.5
    """With plateau: the factor of each reduction."""
    plateau_floor: Annotated[float, Ge(0), Lt(1)] = 0.1
    """With plateau: the smallest share of the schedule's learning rate that a task is left with."""
    plateau_tasks: list[str] | None = None
    """With plateau: the tasks that are watched; null: all that are trained."""

    def problems(self) -> Iterator[Problem]:
        """Yield the problems of values that do not fit together."""
        for key in ("warmup", "decay"):
            value = getattr(self, key)
            if value is not None and value >= 1 and not float(value).is_integer():
                yield Problem(
                    f"{value} is neither a share below 1 nor a whole number of steps",
                    f"optim.{key}",
                    "for example 0.06 or 100",
                )
        if self.decay is not None and self.schedule != "wsd":
            what = f"the value has no effect with optim.schedule={self.schedule}"
            yield Problem(what, "optim.decay", "leave it out, or type optim.schedule=wsd")
        elif (
            self.schedule == "wsd"
            and self.warmup < 1
            and (self.decay or 0.0) < 1
            and self.warmup + (self.decay or 0.2) > 1
        ):
            yield Problem(
                "the warm-up and the decay together are longer than the run",
                "optim.decay",
                "lower optim.warmup or optim.decay",
            )
        betas = getattr(self, "betas", None)
        if betas is not None and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
            yield Problem(
                f"must be two numbers from 0 to below 1, found {betas}",
                "optim.betas",
                "for example [0.9, 0.999]",
            )


Betas = Annotated[list[float], MinLen(2)]


@optims.register("adamw", "mtlcli.training.optimizers:AdamW")
@section
class AdamWOptim(Optim):
    """AdamW (Loshchilov & Hutter 2019); biases and norms have no weight decay."""

    shardable: ClassVar[bool] = True
    """True, because moments are of single numbers."""
    name: Literal["adamw"] = "adamw"
    """Optimiser."""
    betas: Betas = field(default_factory=lambda: [0.9, 0.999])
    """Decay of AdamW's two moments."""
    eps: Annotated[float, Gt(0), Le(1)] = 1e-8
    """AdamW's term against division by zero."""


@optims.register("adamw_8bit", "mtlcli.training.optimizers:AdamW8bit")
@section
class AdamW8bitOptim(Optim):
    """AdamW with block-wise 8-bit moments, and 32-bit moments for embeddings (Dettmers et al.
    2022); needs `mtlcli[adamw_8bit]`."""

    packages: ClassVar[tuple[str, ...]] = ("bitsandbytes",)
    """Imported packages that mtlcli does not depend on."""
    name: Literal["adamw_8bit"] = "adamw_8bit"
    """Optimiser."""
    betas: Betas = field(default_factory=lambda: [0.9, 0.999])
    """Decay of AdamW's two moments."""
    eps: Annotated[float, Gt(0), Le(1)] = 1e-8
    """AdamW's term against division by zero."""


@optims.register("adafactor", "mtlcli.training.optimizers:Adafactor")
@section
class AdafactorOptim(Optim):
    """Adafactor (Shazeer & Stern 2018): second moments by row and column, no first ones, steps
    relative to a parameter's size."""

    relative_lr: ClassVar[float] = 10.0
    """Updates are relative to a parameter's root mean square, which is about 1/10 from scratch and
    1/15 to 1/25 in BERT models."""
    name: Literal["adafactor"] = "adafactor"
    """Optimiser."""
    beta2_decay: Annotated[float, Ge(-1), Le(0)] = -0.8
    """After n updates, the decay of the second moment is 1 - n^beta2_decay. Below -1 the first
    gradients would never fade."""
    eps: Annotated[float, Gt(0), Le(1)] = 1e-3
    """Lower bound of a parameter's root mean square."""
    threshold: Annotated[float, Ge(1)] = 1.0
    """Largest root mean square of an update before it is scaled by the parameter's; the paper's
    d."""


@optims.register("lion", "mtlcli.training.optimizers:Lion")
@section
class LionOptim(Optim):
    """Lion (Chen et al. 2023): the sign of an interpolation between gradient and momentum; one
    moment in memory."""

    relative_lr: ClassVar[float] = 0.2
    """Every number changes by the full learning rate; the authors advise a third to a tenth of
    AdamW's."""
    shardable: ClassVar[bool] = True
    """True, because signs and the moment are of single numbers."""
    name: Literal["lion"] = "lion"
    """Optimiser."""
    weight_decay: Annotated[float, Ge(0), Le(1000)] = 0.05
    """Decoupled weight decay. The authors advise to raise it by the factor by which the learning
    rate is lowered."""
    betas: Betas = field(default_factory=lambda: [0.9, 0.99])
    """Share of the momentum in the update's direction, and decay of the momentum."""


@optims.register("muon", "mtlcli.training.optimizers:Muon")
@section
class MuonOptim(Optim):
    """Muon (Jordan et al. 2024): orthogonalised momentum for the matrices of the layers; AdamW for
    embeddings, heads and vectors."""

    name: Literal["muon"] = "muon"
    """Optimiser."""
    momentum: Annotated[float, Ge(0), Le(1)] = 0.95
    """Decay of the momentum."""
    nesterov: bool = True
    """Use Nesterov's momentum."""
    ns_steps: Annotated[int, Gt(0), Le(100)] = 5
    """Newton-Schulz iterations that make the momentum of a matrix nearly orthogonal."""
    betas: Betas = field(default_factory=lambda: [0.9, 0.999])
    """Decay of AdamW's two moments."""
    eps: Annotated[float, Gt(0), Le(1)] = 1e-8
    """AdamW's term against division by zero."""
