"""Gradient balancing: from the K x K Gram matrix of the gradients of shared parameters to K
weights.

The gradient rows are the gradients of importance_t * L_t, so that a method balances what the user
weighted. Tasks of importance 0 have weight 0 and no part in the balance: the solver sees the others
alone, as if the run did not have them.

When a solver fails, there is a warning, `solver_failures` in results.json counts the failure, and
the last good weights are used again, or the plain sum if there are none yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from mtlcli.errors import RunWarning
from mtlcli.weighting.base import Step, WeightedTask, Weighting, When

if TYPE_CHECKING:
    from torch import Tensor


class SolverFailed(Exception):
    """Failure of a solver to find weights for a Gram matrix; the text gives the reason."""


class GradientBalancing(Weighting):
    """Base class of the methods that weight gradients. They implement `solve`, or `combine` where
    `when` is "rows"."""

    when: ClassVar[When] = "gradients"
    balances_gradients: ClassVar[bool] = True

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self.failures = 0
        self._last: dict[str, float] = {}

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return weights (K,) for the gradient rows of factor_t * L_t (see `factors`), from their
        Gram matrix (K, K), float64. Raises SolverFailed.

        The weights are scaled like those of the plain sum: K equal gradients, or gradients without
        conflict where the method leaves those alone, give weights of 1. Methods that have a scale
        of their own state it in their file.
        """
        raise TypeError(f"{type(self).__name__} has no weights, it combines the rows")

    @property
    def max_norm(self) -> float | None:
        """Largest norm of the update of the shared parameters; None for any norm."""
        return getattr(self.config, "max_norm", None)

    def left_to_shorten(self, known: When) -> float | None:
        """Return `max_norm` unless `weights` has applied it: that takes the exact Gram matrix of
        the step, which gives the norm of the update. Weights that are used again, or that come from
        an estimate of the matrix, cannot ensure the norm."""
        exact = (
            known == "gradients"
            and self.config.last_layers is None
            and self.config.projection is None
        )
        return None if exact else self.max_norm

    def known(self, step: Step) -> When:
        """Return when the weights of this step are known. Between two solved steps (`every`), the
        last weights are used again and known before the step."""
        if step.number % self.config.every and all(
            name in self._last for name in self._balanced(step)
        ):
            return "before"
        return self.when

    def importance(self, step: Step) -> Tensor:
        """Return the importance of the step's tasks: (K,) float64."""
        import torch

        return torch.tensor([self.tasks[name].weight for name in step.tasks], dtype=torch.float64)

    def factors(self, step: Step) -> dict[str, float]:
        """Return the factor of each task's loss, which its gradient row and its private parameters
        follow: the importance."""
        return {name: self.tasks[name].weight for name in step.tasks}

    def weights(self, step: Step) -> dict[str, float]:
        """Return the factors of the gradient rows of importance_t * L_t; 0 for tasks of importance
        0."""
        import torch

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
        """Return the step's tasks whose importance is above 0."""
        return [name for name in step.tasks if self.tasks[name].weight > 0]

    def _solved(self, step: Step) -> Tensor:
        """Return the weights (K,), float64, of a step whose tasks are all balanced, shortened to
        `max_norm` where the Gram matrix gives the norm of the update."""
        import torch
        from torch.linalg import LinAlgError  # type: ignore[attr-defined]

        assert step.gram is not None
        factors = self.factors(step)
        scales = torch.tensor([factors[name] for name in step.tasks], dtype=torch.float64)
        gram = step.gram * scales[:, None] * scales
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
        """Count and warn of a failure of the solver. Returns the last weights (K,) that were found
        for the step's tasks, or 1 for each where one of them has none yet."""
        import torch

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
        """Add a warning if weights are found only once in a run, because they balance nothing after
        that."""
        found = super().remarks(steps, steps_per_epoch)
        if self.config.every > 1 and steps <= self.config.every:
            found.append(
                f"warning: weighting.every={self.config.every} takes the weights of all {steps} "
                "steps from the first one"
            )
        return found

    def report(self) -> dict[str, Any]:
        """Return how often the solver failed."""
        return {"solver_failures": self.failures}

    def state_dict(self) -> dict[str, Any]:
        """Return the last weights and the number of failures."""
        return {"last": dict(self._last), "failures": self.failures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError when the run lacks tasks of the
        state."""
        unknown = [name for name in state["last"] if name not in self.tasks]
        if unknown:
            raise ValueError(
                f"the state has weights of {', '.join(unknown)}, which the run does not have"
            )
        self._last, self.failures = dict(state["last"]), int(state["failures"])


def unit_scale(gram: Tensor) -> tuple[Tensor, float]:
    """Return the Gram matrix divided by the mean of its diagonal, and that mean. Solvers have
    absolute tolerances, but gradients may have any scale.

    Raises SolverFailed when every gradient is zero.
    """
    scale = gram.diagonal().mean().item()
    if scale <= 0:
        raise SolverFailed("every gradient is zero")
    return gram / scale, scale


@contextmanager
def drawing(step: Step) -> Iterator[None]:
    """Let torch's global generator draw as a pure function of (seed, step) within the context.
    Afterwards the generator is as before."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step.generator().initial_seed())
        yield
