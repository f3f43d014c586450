"""Gradient balancing: the K x K Gram matrix of the shared gradients -> K weights.

Rows are the gradients of importance_t * L_t, so that a method balances what the user weighted.
Tasks of importance 0 have weight 0 and no part in the balance: the solver sees the others alone, as
if the run did not have them.

When a solver fails, a warning says so, `solver_failures` in results.json counts it, and the last
good weights are used again; before there are any, the plain sum.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from mtlcli.errors import RunWarning
from mtlcli.weighting.base import Step, WeightedTask, Weighting, When


class SolverFailed(Exception):
    """A solver found no weights for a Gram matrix; the text says why."""


class GradientBalancing(Weighting):
    """Base class of the methods that weight gradients: they implement `solve`, or `combine` where
    `when` is "rows"."""

    when: ClassVar[When] = "gradients"

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self.failures = 0
        self._last: dict[str, float] = {}

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Weights (K,) for the rows of importance_t * L_t, from their Gram matrix (K, K), float64.
        Raises SolverFailed.

        Scaled like the plain sum: K equal gradients, or gradients without conflict where the method
        leaves those alone, give weights of 1, unless the method's own scale is part of it (the file
        says so).
        """
        raise TypeError(f"{type(self).__name__} has no weights, it combines the rows")

    def combine(self, step: Step, rows: Tensor, start: int, total: int) -> Tensor:
        """The update (n,) of columns `start` to `start + n` of the K x `total` matrix of the
        gradients of importance_t * L_t, given these columns: `rows` (K, n), fp32. However the
        matrix is cut, the result is the same."""
        raise TypeError(f"{type(self).__name__} gives weights, it does not combine rows")

    @property
    def max_norm(self) -> float | None:
        """The longest update of the shared parameters; None: any length."""
        return getattr(self.config, "max_norm", None)

    def left_to_shorten(self, known: When) -> float | None:
        """The length to which the update of a step must still be shortened once it is known, or
        None. `known`: when its weights were. `weights` sees to `max_norm` itself where the exact
        Gram matrix of the step says how long the update will be; it does not say so of weights that
        are used again, or that come from an estimate of the matrix."""
        exact = (
            known == "gradients"
            and self.config.last_layers is None
            and self.config.projection is None
        )
        return None if exact else self.max_norm

    def known(self, step: Step) -> When:
        """Between two solved steps (`every`), the last weights are used again and known before the
        step."""
        if step.number % self.config.every and all(
            name in self._last for name in self._balanced(step)
        ):
            return "before"
        return self.when

    def importance(self, step: Step) -> Tensor:
        """(K,) float64: the importance of the step's tasks."""
        return torch.tensor([self.tasks[name].weight for name in step.tasks], dtype=torch.float64)

    def weights(self, step: Step) -> dict[str, float]:
        """Factors of the rows of importance_t * L_t; 0 for tasks of importance 0."""
        names = self._balanced(step)
        weights = dict.fromkeys(step.tasks, 0.0)
        if self.known(step) == "before":
            return weights | {name: self._last[name] for name in names}
        assert step.gram is not None, "the Gram matrix is measured before gradients are balanced"
        if not names:
            return weights
        places = torch.tensor([step.tasks.index(name) for name in names])
        balanced = replace(step, tasks=names, gram=step.gram[places[:, None], places])
        return weights | dict(zip(names, self._solved(balanced).tolist(), strict=True))

    def _balanced(self, step: Step) -> list[str]:
        """The step's tasks that have an importance."""
        return [name for name in step.tasks if self.tasks[name].weight > 0]

    def _solved(self, step: Step) -> Tensor:
        """(K,) float64: the weights of a step all of whose tasks are balanced, shortened to
        `max_norm` where that can be told."""
        assert step.gram is not None
        importance = self.importance(step)
        gram = step.gram * importance[:, None] * importance
        try:
            if not bool(gram.isfinite().all()):
                raise SolverFailed("the Gram matrix is not finite")
            found = self.solve(step, gram)
            if not bool(found.isfinite().all()):
                raise SolverFailed("it gave weights that are not finite")
            self._last |= dict(zip(step.tasks, found.tolist(), strict=True))
        except (SolverFailed, LinAlgError) as error:
            found = self._last_good(step, error)
        if self.max_norm is not None and self.left_to_shorten("gradients") is None:
            norm = (found @ gram @ found).clamp(min=0).sqrt().item()
            if norm > self.max_norm:
                found = found * (self.max_norm / norm)
        return found

    def _last_good(self, step: Step, error: Exception) -> Tensor:
        """(K,) the last weights that were found for the step's tasks, or 1 for each where one of
        them has none yet."""
        self.failures += 1
        have = all(name in self._last for name in step.tasks)
        instead = (
            "its last weights are used again"
            if have
            else "it has found no weights yet, and the plain sum is used"
        )
        warnings.warn(
            f"step {step.number}: the solver of {self.config.name} failed ({error}); {instead}",
            RunWarning,
            stacklevel=2,
        )
        return torch.tensor(
            [self._last[name] if have else 1.0 for name in step.tasks], dtype=torch.float64
        )

    def remarks(self, steps: int, steps_per_epoch: int) -> list[str]:
        """Weights that are found once in a run balance nothing after that."""
        found = super().remarks(steps, steps_per_epoch)
        if self.config.every > 1 and steps <= self.config.every:
            found.append(
                f"warning: weighting.every={self.config.every} takes the weights of all {steps} "
                "steps from the first one"
            )
        return found

    def report(self) -> dict[str, Any]:
        """How often the solver failed."""
        return {"solver_failures": self.failures}

    def state_dict(self) -> dict[str, Any]:
        """The last weights and the count of failures."""
        return {"last": dict(self._last), "failures": self.failures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; its tasks must be of the run."""
        unknown = [name for name in state["last"] if name not in self.tasks]
        if unknown:
            raise ValueError(
                f"the state has weights of {', '.join(unknown)}, which the run does not have"
            )
        self._last, self.failures = dict(state["last"]), int(state["failures"])


def unit_scale(gram: Tensor) -> tuple[Tensor, float]:
    """The Gram matrix divided by the mean of its diagonal, and that mean. Solvers have absolute
    tolerances; gradients have any scale.

    Raises SolverFailed when every gradient is zero.
    """
    scale = gram.diagonal().mean().item()
    if scale <= 0:
        raise SolverFailed("every gradient is zero")
    return gram / scale, scale


@contextmanager
def drawing(step: Step) -> Iterator[None]:
    """Within it, torch's global generator draws as a pure function of (seed, step); afterwards it
    is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step.generator().initial_seed())
        yield
