"""GO4Align (Shen, Wang, Xiao, Van Noord & Worring 2024, "GO4Align: Group Optimization for
Multi-Task Alignment"), as in the authors' code.

Each task has a share p_t, at first 1 / K. In every step, with the losses L_t of the step,

    p_t <- p_t exp(-eta L_t),  scaled to a sum of 1        (the history of a task's risk)
    r_t = p_t sum_j L_j / L_t                              (the risk-guided indicator)

The indicators are cut into `groups` groups by k-means, and the weight of a task is the mean of its
group. With equal losses all weights are 1. The importance of a task multiplies its weight; tasks of
importance 0 are left out of everything. When a step lacks tasks, the others share what they had.

Differences: numbers on a line have an exact k-means, which is found by dynamic programming; the
authors' Lloyd iterations start at random and may end in a worse grouping. With no more tasks than
groups, each task is a group of its own. 1e-8 is added to the losses that divide.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.errors import Problem
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask, same_tasks

EPS = 1e-8


@weightings.register("go4align", "GO4Align")
@section
class GO4AlignWeighting(WeightingConfig):
    """GO4Align: tasks whose losses stand alike form groups, and each group has one weight (Shen et
    al. 2024).

    When it helps: many tasks, of which groups learn alike.

    Cost: none that can be measured: a grouping of K numbers.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """The requirements of the method."""
    name: Literal["go4align"] = "go4align"
    """Method."""
    groups: Annotated[int, Gt(0)] = 2
    """Number of groups, at most one for each task; 1: all tasks have the same weight."""
    step_size: Annotated[float, Gt(0)] = 0.0001
    """How strongly a step's losses change the history of the risks; the authors' robust step
    size."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Yield the problems of the values in a run that trains these tasks."""
        if len(trained) > 1 and self.groups > len(trained):
            yield Problem(
                f"{self.groups} groups for {len(trained)} tasks",
                "weighting.groups",
                f"type weighting.groups={len(trained)} or less",
            )


class GO4Align(LossWeighting):
    """Weights of groups of tasks whose risks are alike."""

    when = "losses"

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        balanced = [name for name, task in tasks.items() if task.weight > 0]
        self._shares = {name: 1 / len(balanced) if name in balanced else 0.0 for name in tasks}

    def weights(self, step: Step) -> dict[str, float]:
        """Return the mean indicator of each task's group times the importance."""
        assert step.losses is not None
        shares = self._moved(step)
        total = sum(step.losses[name] for name in shares)
        sum_of_shares = sum(shares.values())
        indicators = [
            share / sum_of_shares * total / (step.losses[name] + EPS)
            for name, share in shares.items()
        ]
        found = dict(zip(shares, means_of_groups(indicators, self.config.groups), strict=True))
        return {name: self.tasks[name].weight * found.get(name, 0.0) for name in step.tasks}

    def learn(self, step: Step) -> None:
        """Keep the shares that the step's losses have moved."""
        self._shares |= self._moved(step)

    def _moved(self, step: Step) -> dict[str, float]:
        """Return the shares of the step's tasks after the step: their sum stays."""
        assert step.losses is not None
        names = [name for name in step.tasks if self.tasks[name].weight > 0]
        # The largest exponent is 0, so that no share becomes 0 for all tasks at once.
        least = min(step.losses[name] for name in names) if names else 0.0
        moved = {
            name: self._shares[name]
            * math.exp(-self.config.step_size * (step.losses[name] - least))
            for name in names
        }
        scale = sum(self._shares[name] for name in names) / (sum(moved.values()) or 1.0)
        return {name: share * scale for name, share in moved.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the shares by task."""
        return {"shares": dict(self._shares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the shares. Raises ValueError unless the tasks are the same."""
        same_tasks(state["shares"], self.tasks)
        self._shares = {name: float(share) for name, share in state["shares"].items()}


def means_of_groups(values: list[float], groups: int) -> list[float]:
    """Return for each value the mean of its group in the grouping into at most `groups` groups with
    the smallest sum of squared distances to the groups' means (k-means on a line).

    Groups are runs of the sorted values, so that the best grouping of the first n values ends with
    a run whose beginning is tried at each place.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    ascending = [values[place] for place in order]

    def mean(begin: int, end: int) -> float:
        return math.fsum(ascending[begin:end]) / (end - begin)

    def cost(begin: int, end: int) -> float:
        center = mean(begin, end)
        return math.fsum((value - center) ** 2 for value in ascending[begin:end])

    count = len(values)
    # best[n] is the cost of the first n values and the ends of its runs.
    best: list[tuple[float, list[int]]] = [(0.0, [])] + [
        (cost(0, end), [end]) for end in range(1, count + 1)
    ]
    for _ in range(1, min(groups, count)):
        more = list(best)
        for end in range(2, count + 1):
            for begin in range(1, end):
                total = best[begin][0] + cost(begin, end)
                if total < more[end][0]:
                    more[end] = total, [*best[begin][1], end]
        best = more
    found = [0.0] * count
    begin = 0
    for end in best[count][1]:
        for place in order[begin:end]:
            found[place] = mean(begin, end)
        begin = end
    return found
