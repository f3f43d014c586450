"""Annealed weights: a task's weight as a function of the progress of the run, "important tasks
first" or last.

With progress p = step / steps and u = (p - begin) / (finish - begin), held within [0, 1],

    linear: q = u        cosine: q = (1 - cos(pi u)) / 2        step: q = 0 while u < 1/2, then 1
    w_t = a_t (start + (end - start) q)

where a_t is the task's importance. Tasks without a schedule keep a_t.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.errors import Problem
from mtlcli.registry import suggest
from mtlcli.weighting.base import LossWeighting, Step

NEAR = 0.2
"""Share of a schedule's range that may be missing in the last step without a warning. With
`finish=1`, the share of one step is always missing."""


@section
class AnnealedTask:
    """The schedule of one task's weight over the run."""

    start: Annotated[float, Ge(0)] = 1.0
    """Factor of the task's loss until `begin`."""
    end: Annotated[float, Ge(0)] = 1.0
    """Factor of the task's loss from `finish` on."""
    shape: Literal["linear", "cosine", "step"] = "linear"
    """Change from `start` to `end`: in a straight line (linear), along half a cosine wave (cosine),
    or at once, half-way between `begin` and `finish` (step)."""
    begin: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the run after which the factor starts to change."""
    finish: Annotated[float, Ge(0), Le(1)] = 1.0
    """Share of the run after which the factor is `end`; not smaller than `begin`."""


@weightings.register("annealed", "Annealed")
@section
class AnnealedWeighting(WeightingConfig):
    """Weights that follow a schedule over the run.

    When it helps: you know which task should be learned first, or matter alone at the end; helper
    tasks that fade out.

    Cost: none.
    """

    name: Literal["annealed"] = "annealed"
    """Method."""
    tasks: dict[str, AnnealedTask] = field(default_factory=dict)
    """Task -> its schedule; tasks without one keep the factor 1."""

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


class Annealed(LossWeighting):
    """Weights that follow a schedule."""

    def weights(self, step: Step) -> dict[str, float]:
        """Return the schedule's factor times the importance."""
        progress = step.number / step.total
        schedules: dict[str, AnnealedTask] = self.config.tasks
        return {
            name: self.tasks[name].weight
            * (factor(schedules[name], progress) if name in schedules else 1.0)
            for name in step.tasks
        }

    def remarks(self, steps: int, steps_per_epoch: int) -> list[str]:
        """Warn of schedules that change nothing, or do not come to their end, within the run."""
        found = []
        for name, task in self.config.tasks.items():
            factors = [factor(task, number / steps) for number in range(steps)]
            at = f"weighting.tasks.{name}"
            if len(set(factors)) == 1:
                found.append(
                    f"warning: {at} changes nothing: the factor of {name} is {factors[0]:g} in all "
                    f"{steps} steps"
                )
            elif abs(factors[-1] - task.end) > NEAR * abs(task.end - task.start):
                found.append(
                    f"warning: {at} does not reach its end: the factor of {name} is "
                    f"{factors[-1]:g} in the last of {steps} steps"
                )
        return found


def factor(task: AnnealedTask, progress: float) -> float:
    """Return the factor of a task's loss when a share `progress` of the run is over."""
    if progress < task.begin:
        return task.start
    if progress >= task.finish:
        return task.end
    way = (progress - task.begin) / (task.finish - task.begin)
    if task.shape == "cosine":
        way = (1 - math.cos(math.pi * way)) / 2
    elif task.shape == "step":
        way = float(way >= 0.5)
    return task.start + (task.end - task.start) * way
