"""Task affinity by lookahead: how a step on one task changes another's loss (Fifty et al. 2021,
"Efficiently Identifying Task Groupings for Multi-Task Learning"), and the grouping of the tasks
that it suggests.

    Z(i -> j) = 1 - L_j(theta - eta g_i) / L_j(theta)

Here g_i is the gradient of task i's loss with respect to the shared parameters only. A positive
affinity means that a step on i helps j. The paper looks ahead along the optimiser's step. Here eta
makes the plain gradient step as long as one of Adam's, which changes each of P parameters by about
the learning rate: eta = lr sqrt(P) / ||g_i||. Dropout is off, so that only the step makes a
difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mtlcli.training.analysis.partitions import grouping
from mtlcli.training.passes import Passes
from mtlcli.training.state import TrainState
from mtlcli.training.task_batch import TaskBatch


class Affinity:
    """Sums of measured affinities, kept in `state` (JSON values, part of the TrainState)."""

    def __init__(
        self,
        state: dict[str, Any],
        passes: Passes,
        fetch: Callable[[str, int], TaskBatch],
        tasks: list[str],
    ) -> None:
        self._state = state
        self._passes, self._fetch, self._tasks = passes, fetch, tasks
        state.setdefault("measured", 0)
        state.setdefault("sums", {name: dict.fromkeys(tasks, 0.0) for name in tasks})

    def measure(self, state: TrainState, *, lr: float) -> None:
        """Measure every pair of tasks on the next batches of the tasks' streams, without moving the
        streams on. Afterwards the weights are as before, to the bit, and `.grad` is empty."""
        passes = self._passes
        model, shared = passes.model, passes.parameters.shared
        batches = {name: self._fetch(name, state.positions[name]) for name in self._tasks}
        training = model.training
        model.eval()
        before = passes.losses(batches)
        kept = [parameter.detach().clone() for parameter in shared]
        count = sum(parameter.numel() for parameter in shared)
        for name in self._tasks:
            gradient = passes.shared_gradient(name, batches[name])
            norm = (
                torch.stack([part.double().square().sum() for part in gradient]).sum().sqrt().item()
            )
            if norm > 0:
                with torch.no_grad():
                    for parameter, part in zip(shared, gradient, strict=True):
                        parameter.sub_(part, alpha=lr * count**0.5 / norm)
                after = passes.losses(batches)
                with torch.no_grad():
                    for parameter, value in zip(shared, kept, strict=True):
                        parameter.copy_(value)
                for other in self._tasks:
                    self._state["sums"][name][other] += (
                        1 - after[other] / before[other] if before[other] > 0 else 0.0
                    )
        self._state["measured"] += 1
        model.train(training)

    def report(self) -> dict[str, Any] | None:
        """Return the mean affinities `from -> to` and the suggested grouping; None when nothing was
        measured."""
        measured = self._state["measured"]
        if not measured:
            return None
        means = {
            one: {other: total / measured for other, total in row.items()}
            for one, row in self._state["sums"].items()
        }
        return {"measured": measured, "affinity": means, "grouping": grouping(means)}
