"""What the configurations of weighting methods have in common. Each method has its own, in its file
in `mtlcli/weighting/`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import Registry

weightings = Registry(
    "weighting", "mtlcli.weighting.losses", "mtlcli.weighting.gradients", group="mtl.weightings"
)


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
    name: str
    """Method."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Yield what is wrong with the values in a run that trains these tasks."""
        yield from ()


@section
class Balancing(WeightingConfig):
    """What all methods on gradients have in common; `every`, `last_layers` and `projection` are
    approximations."""

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
