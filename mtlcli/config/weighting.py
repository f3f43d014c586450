"""The base classes of the configurations of weighting methods. Each method has its own, in its file
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
    "weighting", "mtlcli.weighting.losses", "mtlcli.weighting.gradients", group="mtlcli.weighting"
)


@dataclass(frozen=True)
class Needs:
    """The requirements of a method, checked before a run starts."""

    several_tasks: bool = False
    """More than one task in each step: a sampling that puts all tasks into every step."""
    shared_parameters: bool = False
    """Parameters that several tasks share."""
    validation: bool = False
    """Validation rows with labels for every trained task, whose losses are measured in training."""
    unit_importance: bool = False
    """`tasks.NAME.weight` must be 1, or 0 for a task that stays out of the balance: the method is
    invariant to the scale of a loss, so any other weight would have no effect."""
    packages: tuple[str, ...] = ()
    """Imported packages that mtlcli does not depend on."""
    extra: str = ""
    """The extra of mtlcli that installs them."""


@section
class WeightingConfig:
    """The base class of the configurations of weighting methods."""

    needs: ClassVar[Needs] = Needs()
    """The requirements of the method."""
    on_gradients: ClassVar[bool] = False
    """Whether weights are put on gradients, not on losses."""
    keeps_rows: ClassVar[bool] = False
    """Whether a checkpoint holds a number of the method for each task and shared parameter."""
    name: str
    """Method."""

    @property
    def inner_batches(self) -> int:
        """The number of parts into which the batch of a task in a step is cut, for steps within the
        step; 1: it is not cut. This is not a key of the configuration."""
        return 1

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Yield the problems of the values in a run that trains these tasks."""
        yield from ()


@section
class Balancing(WeightingConfig):
    """The base class of the configurations of methods on gradients; `every`, `last_layers` and
    `projection` are approximations."""

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True)
    """The requirements of the method."""
    on_gradients: ClassVar[bool] = True
    """Weights are put on gradients."""
    every: Annotated[int, Gt(0)] = 1
    """Balance every n-th step; the steps in between reuse the last weights and cost as much as the
    plain sum."""
    last_layers: Annotated[int, Gt(0)] | None = None
    """Compute the weights from the gradients of only the last n layers of the backbone; null: from
    those of all shared parameters."""
    projection: Annotated[int, Ge(16)] | None = None
    """Compute the weights from a random projection of the gradients to this many numbers; null:
    from the gradients."""
    rows: Literal["fp32", "bf16"] = "fp32"
    """Number format in which the tasks' gradients are kept until they are combined."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        if self.last_layers is not None and self.projection is not None:
            what = "the projection cannot be given together with weighting.last_layers"
            yield Problem(what, "weighting.projection", "set one of them to null")
