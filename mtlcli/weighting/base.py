"""Weighting methods: how K task losses, or K task gradients, become one update.

A method is pure mathematics: it sees names and numbers, never models, loops or ranks.
`training/step.py` carries out what it declares. The kinds differ in what the weights are put on:

- `LossWeighting`: the gradient of the step is sum_t w_t dL_t, for every parameter.
- `GradientBalancing` (gradients/base.py): the gradients of the parameters that tasks share are
  combined by weights that depend on these gradients; the private parameters of a task follow its
  own loss.
- `RowKeeping` (kept_rows.py): methods that keep numbers for each task and each shared parameter
  from step to step, such as a moving average of the task's gradients.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

When = Literal["before", "losses", "gradients", "rows"]
"""Moment at which the weights of a step are known: before the step; once its losses are known; once
the Gram matrix of its gradients is known; or never, because the method combines the gradient rows
itself."""


@dataclass(frozen=True)
class WeightedTask:
    """The facts about a task that a method uses."""

    weight: float
    """The user's importance, `tasks.NAME.weight`."""
    loss_kind: str
    """`classification` (negative log likelihood) or `regression` (squared error)."""


@dataclass
class Step:
    """The facts about a step that a method uses. They are the same on every rank."""

    number: int
    """Number of updates made before this one."""
    total: int
    """Number of updates in the whole run."""
    epoch: int
    """Pass over the data that this step belongs to, from 0."""
    seed: int
    """The run's seed."""
    tasks: list[str]
    """The K tasks that take part, in order."""
    losses: dict[str, float] | None = None
    """Mean loss of each task over all ranks and micro-batches; None before it is known."""
    gram: Tensor | None = None
    """(K, K) float64 on the CPU: inner products of the tasks' gradients with respect to the shared
    parameters, over all ranks. These are the gradients of the plain losses, without importance.
    None when they were not measured."""

    def generator(self) -> torch.Generator:
        """Return a generator that is a pure function of (seed, step), so that draws are the same on
        every rank and after a resume."""
        import torch

        from mtlcli.seeds import WEIGHTING, step_seed

        return torch.Generator().manual_seed(step_seed(self.seed, self.number, WEIGHTING))


class Weighting(ABC):
    """Base class of all kinds."""

    when: ClassVar[When] = "before"
    """When the weights of a step are known."""
    balances_gradients: ClassVar[bool] = False
    """Whether weights are put on the gradients of the shared parameters; private parameters then
    follow their own loss. Otherwise weights are put on the losses."""
    measures_gradients: ClassVar[bool] = False
    """Whether `learn` needs `step.gram` although the weights, known before the step, do not."""
    losses_after_step: ClassVar[bool] = False
    """Whether the losses of the same batches are computed again after the update, for
    `observe_after`."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        self.config = config
        self.tasks = tasks

    @classmethod
    def needs_one_gradient(cls) -> bool:
        """Return whether a step needs no more than one gradient, that of a sum of losses whose
        weights are known before any step, and no other pass."""
        return (
            cls.when == "before"
            and cls.known is Weighting.known
            and cls.validates is Weighting.validates
            and not (cls.balances_gradients or cls.measures_gradients)
        )

    def known(self, step: Step) -> When:
        """Return when the weights of this step are known."""
        return self.when

    @abstractmethod
    def weights(self, step: Step) -> dict[str, float]:
        """Return the weight of each task of the step, importance included. `step` holds what is
        known at the moment that `known` returns."""

    def weights_unread(self, step: Step) -> dict[str, float | Tensor]:
        """Return the same as `weights`, but a weight that comes from a learned parameter as a
        scalar tensor, so that the host need not wait for the device of the parameter."""
        return dict(self.weights(step))

    def needs_last_step(self, step: Step) -> bool:
        """Return whether the weights of this step depend on what `learn` learns from the step
        before."""
        return type(self).learn is not Weighting.learn

    def combine(self, step: Step, rows: Tensor, start: int, total: int) -> Tensor:
        """Return the update (n,) for columns `start` to `start + n` of the K x `total` matrix of
        gradient rows of importance_t * L_t. `rows`: these columns, (K, n), fp32. The result does
        not depend on how the matrix is cut. Called only when the weights are known as "rows"."""
        raise TypeError(f"{type(self).__name__} gives weights, it does not combine rows")

    def left_to_shorten(self, known: When) -> float | None:
        """Return the norm to which the update of the shared parameters must still be shortened once
        it is computed, or None. `known`: when the weights of the step were known."""
        return None

    def observe(self, step: Step) -> None:
        """Let the method learn from a step whose losses (and Gram matrix, if it was measured) are
        known. Called once a step, after `weights`. The method learns nothing from a number that is
        not finite, because its state would never recover."""
        if all_finite((step.losses or {}).values(), step.gram):
            self.learn(step)

    def observe_after(self, step: Step, losses: dict[str, float]) -> bool:
        """Let the method learn from the losses of the same batches after the update. Called once a
        step if `losses_after_step`. Returns whether all losses were finite; if not, the method
        learns nothing."""
        finite = all_finite([*(step.losses or {}).values(), *losses.values()])
        if finite:
            self.learn_after(step, losses)
        return finite

    def validates(self, step: Step) -> bool:
        """Return whether the method wants, before this step, the losses of the step's tasks on a
        batch of validation examples each, for `observe_validation`."""
        return False

    def observe_validation(self, step: Step, losses: dict[str, float]) -> bool:
        """Let the method learn from validation losses before the weights of a step. Called if
        `validates`. Returns whether all losses were finite; if not, the method learns nothing."""
        finite = all_finite(losses.values())
        if finite:
            self.learn_validation(step, losses)
        return finite

    def learn_validation(self, step: Step, losses: dict[str, float]) -> None:
        """Learn from the validation losses of the step's tasks. All of them are finite."""

    def learn(self, step: Step) -> None:
        """Learn from the losses (and Gram matrix, if it was measured) of a step. All of them are
        finite."""

    def learn_after(self, step: Step, losses: dict[str, float]) -> None:
        """Learn from the losses of the same batches after the update. All of them are finite."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a resumed run needs, by name; the rest of the state is in
        `state_dict`."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave. Raises ValueError when it does not fit."""
        if tensors:
            raise ValueError(f"{type(self).__name__} keeps no tensors, found {sorted(tensors)}")

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that the method learns by gradient descent, by names that hold the
        task's name. The optimiser updates them at `config.lr`."""
        return {}

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return the values of `named_parameters`."""
        return list(self.named_parameters().values())

    def objective(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the scalar that `parameters` minimise, given the detached mean losses of the
        step's tasks. Called only when there are such parameters."""
        raise TypeError(f"{type(self).__name__} learns nothing by gradient descent")

    def remarks(self, steps: int, steps_per_epoch: int) -> list[str]:
        """Return what the user should know before a run of `steps` steps: one sentence each, as a
        warning where the method has little or no effect."""
        weighted = [name for name, task in self.tasks.items() if task.weight > 0]
        if self.config.needs.several_tasks and len(weighted) < 2:
            return [
                f"warning: weighting={self.config.name} has nothing to compare: only {weighted[0]} "
                "has a weight above 0"
            ]
        return []

    def report(self) -> dict[str, Any]:
        """Return the statistics of the method for results.json at the end of a run, as JSON
        values."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError when it does not fit."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, found {sorted(state)}")


class LossWeighting(Weighting):
    """Base class of the methods that weight losses. Every weight includes the task's importance as
    a factor of its whole term."""


def all_finite(numbers: Iterable[float], gram: Tensor | None = None) -> bool:
    """Return whether all numbers, and all entries of the matrix if there is one, are finite."""
    return all(map(math.isfinite, numbers)) and (gram is None or bool(gram.isfinite().all()))


def same_tasks(found: dict[str, Any], tasks: dict[str, WeightedTask]) -> None:
    """Raise ValueError unless a saved state has the tasks of the run, in the same order."""
    if list(found) != list(tasks):
        raise ValueError(f"the state is of the tasks {list(found)}, the run has {list(tasks)}")
