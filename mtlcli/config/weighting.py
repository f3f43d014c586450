"""Weighting methods: how K task losses become one update. One dataclass per method; those that
weight gradients are in balancing.py."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import Registry, suggest

weightings = Registry("weighting")


@dataclass(frozen=True)
class Needs:
    """What a run must have for a method to work; checked before it starts."""

    several_tasks: bool = False
    """More than one task in each step: a sampling that puts all of them into one."""
    shared_parameters: bool = False
    """Parameters that several tasks share."""
    unit_importance: bool = False
    """`tasks.NAME.weight` must be 1, or 0 for a task that stays out of the balance: the method is
    invariant to the scale of a loss, so that any other weight would do nothing."""
    packages: tuple[str, ...] = ()
    """Packages to import that are no dependency of mtlcli."""
    extra: str = ""
    """The extra of mtlcli that installs them."""


@section
class WeightingConfig:
    """What the configurations of all weighting methods have in common."""

    needs: ClassVar[Needs] = Needs()
    """What a run must have for the method."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Yield what is wrong with the values in a run that trains these tasks."""
        yield from ()


@weightings.register("static", "mtlcli.weighting.losses.static:Static")
@section
class StaticWeighting(WeightingConfig):
    """Fixed weights: the sum of the tasks' losses, each times its `tasks.NAME.weight`."""

    name: Literal["static"] = "static"
    """Method."""


@weightings.register("uncertainty", "mtlcli.weighting.losses.uncertainty:Uncertainty")
@section
class UncertaintyWeighting(WeightingConfig):
    """Learned homoscedastic uncertainty (Kendall, Gal & Cipolla 2018)."""

    name: Literal["uncertainty"] = "uncertainty"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.01
    """Learning rate of the log variances; they follow the run's schedule and have no weight
    decay."""


@weightings.register("random", "mtlcli.weighting.losses.random:Random")
@section
class RandomWeighting(WeightingConfig):
    """Random weights, drawn anew in every step (RLW, Lin et al. 2022)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """What a run must have for it."""
    name: Literal["random"] = "random"
    """Method."""
    distribution: Literal["normal", "dirichlet"] = "normal"
    """normal: the softmax of standard normal numbers; dirichlet: every mixture of the tasks equally
    likely."""


@weightings.register("dwa", "mtlcli.weighting.losses.dwa:DWA")
@section
class DWAWeighting(WeightingConfig):
    """Dynamic weight average: tasks whose loss falls slowly weigh more (Liu, Johns & Davison
    2019)."""

    name: Literal["dwa"] = "dwa"
    """Method."""
    temperature: Annotated[float, Gt(0)] = 2.0
    """Large values make the weights equal."""
    every: Annotated[int, Gt(0)] | None = None
    """Steps over which losses are averaged before they are compared; null: an epoch."""


@weightings.register("gls", "mtlcli.weighting.losses.gls:GLS")
@section
class GLSWeighting(WeightingConfig):
    """Geometric loss strategy: the geometric mean of the losses (Chennupati et al. 2019)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """What a run must have for it."""
    name: Literal["gls"] = "gls"
    """Method."""


@weightings.register("imtl_l", "mtlcli.weighting.losses.imtl_l:IMTLL")
@section
class IMTLLWeighting(WeightingConfig):
    """Learned scales that bring all losses to the same size (IMTL-L, Liu et al. 2021)."""

    name: Literal["imtl_l"] = "imtl_l"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.01
    """Learning rate of the log scales; they follow the run's schedule and have no weight decay."""


@weightings.register("stch", "mtlcli.weighting.losses.stch:STCH")
@section
class STCHWeighting(WeightingConfig):
    """Smooth Tchebycheff: the worst task, by the share of its reference loss that is left, weighs
    most (Lin et al. 2024)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """What a run must have for it."""
    name: Literal["stch"] = "stch"
    """Method."""
    mu: Annotated[float, Gt(0)] = 0.5
    """Smoothing: towards 0 only the worst task counts; at 1, the default of the authors' code, the
    weights are fixed once the references are measured, hence the smaller default here; large values
    give the geometric mean."""
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.05
    """Share of the run before the reference losses are measured; the geometric mean of the losses
    until they are."""
    reference: Annotated[float, Gt(0), Lt(1)] = 0.05
    """Share of the run, after the warm-up, over which each task's mean loss is its reference."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        if self.warmup + self.reference >= 1:
            yield Problem(
                f"weighting.warmup={self.warmup:g} and weighting.reference={self.reference:g} take "
                "up the whole run: "
                "no step is left to balance",
                "weighting.warmup",
                "lower one of weighting.warmup and weighting.reference",
            )


@weightings.register("famo", "mtlcli.weighting.losses.famo:FAMO")
@section
class FAMOWeighting(WeightingConfig):
    """Fast adaptive multitask optimisation: all losses fall at the same rate (Liu et al. 2023)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """What a run must have for it."""
    name: Literal["famo"] = "famo"
    """Method."""
    lr: Annotated[float, Gt(0)] = 0.025
    """Learning rate of the logits, in an Adam of their own; constant through the run."""
    weight_decay: Annotated[float, Ge(0)] = 0.001
    """Pulls the logits towards 0, that is, towards equal logits (gamma of the paper)."""


@weightings.register("gradnorm", "mtlcli.weighting.losses.gradnorm:GradNorm")
@section
class GradNormWeighting(WeightingConfig):
    """Gradient normalisation: weights learned so that the tasks' gradients are of like size (Chen
    et al. 2018)."""

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True)
    """What a run must have for it."""
    name: Literal["gradnorm"] = "gradnorm"
    """Method."""
    alpha: Annotated[float, Ge(0)] = 1.5
    """How strongly tasks that learn slowly are favoured; 0: all gradients of the same size."""
    lr: Annotated[float, Gt(0)] = 0.025
    """Learning rate of the weights, in an Adam of their own; constant through the run."""
    first_steps: Annotated[int, Gt(0)] = 20
    """Steps whose mean loss is what a task's loss is measured by. 1 is the paper's; a loss of one
    batch is off by chance, and so are all weights that follow from it."""


@weightings.register("log", "mtlcli.weighting.losses.log:Log")
@section
class LogWeighting(WeightingConfig):
    """The sum of the logarithms of the losses (the loss transform of DB-MTL, Lin et al. 2023)."""

    name: Literal["log"] = "log"
    """Method."""


@weightings.register("scale_free", "mtlcli.weighting.losses.scale_free:ScaleFree")
@section
class ScaleFreeWeighting(WeightingConfig):
    """Each loss divided by the moving average of its own past values."""

    name: Literal["scale_free"] = "scale_free"
    """Method."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Share of the average that stays from one loss of the task to the next; 0: the loss before
    this one alone."""


@section
class AnnealedTask:
    """How the weight of one task changes in the course of the run."""

    start: Annotated[float, Ge(0)] = 1.0
    """Factor of the task's loss until `begin`."""
    end: Annotated[float, Ge(0)] = 1.0
    """Factor of the task's loss from `finish` on."""
    shape: Literal["linear", "cosine", "step"] = "linear"
    """From start to end in a straight line, in half a cosine wave, or at once, half-way between
    `begin` and `finish`."""
    begin: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the run after which the factor leaves `start`."""
    finish: Annotated[float, Ge(0), Le(1)] = 1.0
    """Share of the run after which the factor is `end`; not before `begin`."""


@weightings.register("annealed", "mtlcli.weighting.losses.annealed:Annealed")
@section
class AnnealedWeighting(WeightingConfig):
    """Weights that follow a schedule in the course of the run."""

    name: Literal["annealed"] = "annealed"
    """Method."""
    tasks: dict[str, AnnealedTask] = field(default_factory=dict)
    """The schedule of each task that has one; the others keep the factor 1."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        if not self.tasks:
            yield Problem(
                "no task has a schedule",
                "weighting.tasks",
                "for example weighting.tasks.NAME.end=0, or type weighting=static",
            )
        for name, task in self.tasks.items():
            if name not in trained:
                yield Problem(
                    f"task '{name}' is not trained in the run",
                    f"weighting.tasks.{name}",
                    suggest(name, trained),
                )
            if task.begin > task.finish:
                yield Problem(
                    f"begins at {task.begin:g} of the run and finishes before, at {task.finish:g}",
                    f"weighting.tasks.{name}.begin",
                    f"type weighting.tasks.{name}.begin={task.finish:g} or less",
                )
