"""Annealed weights: a task's weight as a function of the progress of the run, "important tasks
first" or last.

With progress p = step / steps and u = (p - begin) / (finish - begin), held within [0, 1],

    linear: q = u        cosine: q = (1 - cos(pi u)) / 2        step: q = 0 while u < 1/2, then 1
    w_t = a_t (start + (end - start) q)

where a_t is the task's importance. Tasks without a schedule keep a_t.
"""

from __future__ import annotations

import math

from mtlcli.config.weighting import AnnealedTask
from mtlcli.weighting.base import LossWeighting, Step

NEAR = 0.2
"""Share of a schedule's range that may be missing in the last step without a warning. With
`finish=1`, the share of one step is always missing."""


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
