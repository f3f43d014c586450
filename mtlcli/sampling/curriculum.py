"""Curriculum: the run is cut into phases, and each phase has its own tasks and shares.

A phase names its tasks with a priority each. In a phase, a step takes one of them with probability

    p(task) = priority(task) / sum of the priorities of the phase

Without phases in the configuration there is one for each task, all of the same length: the first
trains the first task of the run, and each later phase adds the next task, all with priority 1. The
order of the tasks is that of the command line, so `task=[mnli,rte]` begins with mnli. After Bengio
et al. 2009, "Curriculum Learning"; the order is the user's, it is not learned.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import field
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Le, MinLen

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.registry import suggest
from mtlcli.sampling.base import RandomSampling

if TYPE_CHECKING:
    import numpy as np


@section
class Phase:
    """A part of the run with shares of its own."""

    tasks: Annotated[dict[str, Annotated[float, Gt(0), Le(1_000_000)]], MinLen(1)]
    """The tasks of the phase, each with its priority: a task of priority 2 gets twice the steps of
    a task of priority 1. Tasks that are not named rest."""
    length: Annotated[float, Gt(0)] | None = None
    """Length: a share of all steps if below 1, else a number of steps. Null, for the last phase:
    the rest of the run."""


@samplings.register("curriculum", "Curriculum")
@section
class CurriculumSampling(SamplingConfig):
    """One task per step, in phases: each names its length, its tasks and their priorities (after
    Bengio et al. 2009).

    When it helps: you know an order that helps, for example a large general task before a small
    one.

    Cost: none.
    """

    name: Literal["curriculum"] = "curriculum"
    """Policy."""
    phases: list[Phase] = field(default_factory=list)
    """The phases in order, for example `[{tasks: {mnli: 1}, length: 0.3}, {tasks: {mnli: 1, rte:
    2}}]`. Empty: a phase for each task, of equal lengths, each of which adds the next task of the
    run."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Yield the problems of the phases in a run that trains these tasks."""
        last = len(self.phases) - 1
        for number, phase in enumerate(self.phases):
            at = f"sampling.phases[{number}]"
            for name in phase.tasks:
                if name not in trained:
                    yield Problem(
                        f"the run does not train a task '{name}'",
                        f"{at}.tasks",
                        suggest(name, trained),
                    )
            length = phase.length
            if number < last and length is None:
                yield Problem(
                    "only the last phase can do without a length",
                    f"{at}.length",
                    "give a share of the run, for example 0.3, or a number of steps",
                )
            if number == last and length is not None:
                yield Problem(
                    "the value has no effect: the last phase takes the rest of the run",
                    f"{at}.length",
                    "take it out",
                )
            if length is not None and length >= 1 and not float(length).is_integer():
                yield Problem(
                    f"{length} is neither a share below 1 nor a whole number of steps",
                    f"{at}.length",
                    "for example 0.3 or 100",
                )
        resting = {name for name in trained if self.phases} - {
            name for phase in self.phases for name in phase.tasks
        }
        for name in sorted(resting):
            yield Problem(
                f"no phase trains '{name}'",
                "sampling.phases",
                f"add it to a phase, or take it out of the run: tasks.{name}.splits.train=null "
                "only evaluates it",
            )
        if sum(phase.length or 0 for phase in self.phases if (phase.length or 0) < 1) >= 1:
            yield Problem(
                "the shares of the phases leave nothing for the last one",
                "sampling.phases",
                "lower them",
            )


class Curriculum(RandomSampling):
    """Policy whose shares are fixed within a phase."""

    def __init__(self, config: Any, sizes: Any, seed: int) -> None:
        super().__init__(config, sizes, seed)
        # In a stage of a run, the tasks of other stages rest.
        given = [
            {name: each for name, each in phase.tasks.items() if name in sizes}
            for phase in config.phases
        ]
        self._priorities: list[dict[str, float]] = given or [
            dict.fromkeys(self.names[: count + 1], 1.0) for count in range(len(self.names))
        ]
        self._ends: list[int] = []

    def fit(self, steps: int) -> None:
        """Set the first step of each phase but the first. Raises UserError when a phase would have
        no step, or none of the tasks that are trained."""
        super().fit(steps)
        if self.config.phases:
            lengths = [
                math.ceil(length * steps) if length < 1 else int(length)
                for length in (phase.length or 0 for phase in self.config.phases[:-1])
            ]
            self._ends = list(accumulate(lengths))
        else:
            count = len(self.names)
            self._ends = [steps * number // count for number in range(1, count)]
        edges = [0, *self._ends, steps]
        for number, priorities in enumerate(self._priorities):
            if edges[number] >= edges[number + 1]:
                raise UserError(
                    f"with {count_of(steps, 'step')}, phase {number + 1} of "
                    f"{len(self._priorities)} has none",
                    "sampling.phases",
                    "lower the lengths of the others, or raise runner.steps",
                )
            if not priorities:
                raise UserError(
                    f"phase {number + 1} has none of the tasks of a stage: {', '.join(self.names)}",
                    "sampling.phases",
                    "leave the order to sharing.stages, and choose another sampling",
                )

    def phase(self, step: int) -> int:
        """Return the number of the phase of step `step`, from 0."""
        return bisect_right(self._ends, step)

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task at step `step`: (K,); 0 for those that rest."""
        import numpy as np

        priorities = self._priorities[self.phase(step)]
        rates = np.array([priorities.get(name, 0.0) for name in self.names])
        found: np.ndarray = rates / rates.sum()
        return found

    def statistics(self, step: int) -> dict[str, Any]:
        """Return the number of the phase, from 1."""
        return {"phase": self.phase(step) + 1}
