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

from collections.abc import Callable, Iterator
from typing import Any

import torch

from mtlcli.training.passes import Passes
from mtlcli.training.state import TrainState
from mtlcli.training.task_batch import TaskBatch

LARGEST = 9
"""The number of tasks up to which all groupings are compared (Bell's number of 9 is 21147)."""


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


def grouping(affinity: dict[str, dict[str, float]]) -> list[list[str]]:
    """Return the partition of the tasks that maximises the sum, over all tasks, of the mean
    affinity of the other tasks of the group towards the task.

    A task alone counts 0. Of equally good partitions, the one with the fewest groups, and so the
    fewest models, is chosen. Up to LARGEST tasks, all partitions are compared; above that, groups
    are merged as long as merging helps.
    """
    tasks = list(affinity)

    def value(groups: list[list[str]]) -> tuple[float, int]:
        total = sum(
            sum(affinity[other][task] for other in group if other != task) / (len(group) - 1)
            for group in groups
            if len(group) > 1
            for task in group
        )
        return round(total, 12), -len(groups)

    if len(tasks) <= LARGEST:
        return max(_partitions(tasks), key=value)
    groups = [[task] for task in tasks]
    while len(groups) > 1:
        merged = [
            [group for index, group in enumerate(groups) if index not in (one, other)]
            + [groups[one] + groups[other]]
            for one in range(len(groups))
            for other in range(one)
        ]
        best = max(merged, key=value)
        if value(best) <= value(groups):
            break
        groups = best
    return groups


def _partitions(items: list[str]) -> Iterator[list[list[str]]]:
    """Yield all partitions of a list."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for partition in _partitions(rest):
        yield [[first], *partition]
        for index, group in enumerate(partition):
            yield [*partition[:index], [first, *group], *partition[index + 1 :]]
