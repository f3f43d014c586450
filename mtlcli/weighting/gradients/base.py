"""Gradient balancing: the K x K Gram matrix of the shared gradients -> K weights.

Rows are the gradients of importance_t * L_t, so that a method balances what the user weighted. A solver that fails says
so and the last good weights are used again; it never turns into equal weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from mtlcli.errors import RunError, RunWarning
from mtlcli.weighting.base import Step, WeightedTask, Weighting, When


class SolverFailed(Exception):
    """A solver found no weights for a Gram matrix; the text says why."""


class GradientBalancing(Weighting):
    """Base class of the methods that weight gradients: they implement `solve`, or `combine` where `when` is "rows"."""

    when: ClassVar[When] = "gradients"

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self.failures = 0
        self._last: dict[str, float] = {}

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Weights (K,) for the rows of importance_t * L_t, from their Gram matrix (K, K), float64. Raises SolverFailed.

        Scaled like the plain sum: K equal gradients, or gradients without conflict where the method leaves those alone,
        give weights of 1, unless the method's own scale is part of it (the file says so).
        """
        raise TypeError(f"{type(self).__name__} has no weights, it combines the rows")

    def combine(self, step: Step, rows: Tensor, start: int, total: int) -> Tensor:
        """The update (n,) of columns `start` to `start + n` of the K x `total` matrix of the gradients of importance_t * L_t, given
        these columns: `rows` (K, n), fp32. However the matrix is cut, the result is the same."""
        raise TypeError(f"{type(self).__name__} gives weights, it does not combine rows")

    def known(self, step: Step) -> When:
        """Between two solved steps (`every`), the last weights are used again and known before the step."""
        if step.number % self.config.every and all(name in self._last for name in step.tasks):
            return "before"
        return self.when

    def importance(self, step: Step) -> Tensor:
        """(K,) float64: the importance of the step's tasks."""
        return torch.tensor([self.tasks[name].weight for name in step.tasks], dtype=torch.float64)

    def weights(self, step: Step) -> dict[str, float]:
        """Factors of the rows of importance_t * L_t."""
        if self.known(step) == "before":
            return {name: self._last[name] for name in step.tasks}
        assert step.gram is not None, "the Gram matrix is measured before gradients are balanced"
        importance = self.importance(step)
        gram = step.gram * importance[:, None] * importance
        try:
            if not bool(torch.isfinite(gram).all()):
                raise SolverFailed("the Gram matrix is not finite")
            found = self.solve(step, gram)
            if not bool(torch.isfinite(found).all()):
                raise SolverFailed("it gave weights that are not finite")
        except (SolverFailed, LinAlgError) as error:
            return self._last_good(step, error)
        self._last |= dict(zip(step.tasks, found.tolist(), strict=True))
        return {name: self._last[name] for name in step.tasks}

    def _last_good(self, step: Step, error: Exception) -> dict[str, float]:
        self.failures += 1
        name = self.config.name
        unknown = [task for task in step.tasks if task not in self._last]
        if unknown:
            raise RunError(
                f"the solver of {name} failed before it had found weights for {', '.join(unknown)}: {error}",
                where=f"step {step.number}",
                fix="lower optim.lr, or choose another weighting",
            ) from error
        warnings.warn(
            f"step {step.number}: the solver of {name} failed ({error}); its last weights are used again", RunWarning, stacklevel=2
        )
        return {task: self._last[task] for task in step.tasks}

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
            raise ValueError(f"the state has weights of {', '.join(unknown)}, which the run does not have")
        self._last, self.failures = dict(state["last"]), int(state["failures"])


def unit_scale(gram: Tensor) -> tuple[Tensor, float]:
    """The Gram matrix divided by the mean of its diagonal, and that mean. Solvers have absolute tolerances; gradients have any scale.

    Raises SolverFailed when every gradient is zero.
    """
    scale = gram.diagonal().mean().item()
    if scale <= 0:
        raise SolverFailed("every gradient is zero")
    return gram / scale, scale


@contextmanager
def drawing(step: Step) -> Iterator[None]:
    """Within it, torch's global generator draws as a pure function of (seed, step); afterwards it is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step.generator().initial_seed())
        yield
