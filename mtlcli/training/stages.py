"""The stages of a run: which tasks are drawn, from which step on, for how long.

Most runs have one stage with all tasks. A stage has a sampling policy of its own over its tasks,
which counts steps from the stage's beginning, and a learning rate that rises and falls within it.
Where a run stands is in its TrainState, so that a resumed run goes on in the same stage: a stage
begins before a step, and what ends one is known from the state alone.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

from mtlcli.errors import UserError, count_of
from mtlcli.sampling.base import Sampling
from mtlcli.training.state import Stage


class Stages:
    """The stages in order."""

    def __init__(self, samplings: list[Sampling], *, patience: int | None = None) -> None:
        """`samplings`: each stage's policy. `patience`: evaluations without a better average of its
        tasks that end a stage, or None."""
        self.samplings = samplings
        self.patience = patience
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.samplings)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that make up one pass over the data of all stages."""
        return sum(sampling.steps_per_epoch for sampling in self.samplings)

    def fit(self, steps: int, lengths: list[int] | None = None) -> None:
        """Settle how long stages are in a run of `steps` steps. `lengths`: of all but the last;
        None: by the size of their data.

        Raises UserError when a stage would have no step.
        """
        if lengths is None:
            ends = [
                steps * done // self.steps_per_epoch
                for done in accumulate(each.steps_per_epoch for each in self.samplings)
            ]
            self._lengths = [end - begin for begin, end in pairwise([0, *ends])]
        else:
            self._lengths = [*lengths, steps - sum(lengths)]
        empty = next(
            (number for number, length in enumerate(self._lengths, start=1) if length < 1), None
        )
        if empty is not None:
            raise UserError(
                f"with {count_of(steps, 'step')}, stage {empty} of {len(self)} has none",
                where="sharing.lengths",
                fix="lower the lengths of the others, or raise runner.steps",
            )

    @property
    def shortest(self) -> int:
        """Steps of the shortest stage, once `fit` has settled them."""
        return min(self._lengths)

    def end(self, stage: Stage, steps: int) -> int:
        """The step before which a stage ends at the latest. The last one ends with the run of
        `steps` steps."""
        return steps if stage.number == len(self) - 1 else stage.begin + self._lengths[stage.number]

    def over(self, stage: Stage, step: int, steps: int) -> bool:
        """Whether a stage ends before step `step`."""
        return step >= self.end(stage, steps) or (
            self.patience is not None and stage.stale >= self.patience
        )

    def is_last(self, stage: Stage) -> bool:
        """Whether none follows."""
        return stage.number == len(self) - 1

    def tasks(self, stage: Stage) -> list[str]:
        """The tasks that are trained in a stage."""
        return self.samplings[stage.number].names

    def plan(self, stage: Stage, step: int) -> list[tuple[str, int]]:
        """The tasks of step `step` with the number of examples of each."""
        return self.samplings[stage.number].plan(step - stage.begin)

    def note(self, stage: Stage, results: dict[str, Any]) -> None:
        """Remember an evaluation."""
        scores = [
            results["tasks"][name]["main"] for name in self.tasks(stage) if name in results["tasks"]
        ]
        scores = [score for score in scores if score is not None]
        # Without a labelled split there is nothing that could stop getting better.
        if not scores or stage.best is None or sum(scores) / len(scores) > stage.best:
            stage.best, stage.stale = sum(scores) / len(scores) if scores else None, 0
        else:
            stage.stale += 1

    def describe(self, stage: Stage, steps: int) -> str:
        """A line for the user."""
        return (
            f"stage {stage.number + 1} of {len(self)}: {', '.join(self.tasks(stage))}, steps "
            f"{stage.begin} to {self.end(stage, steps)}"
        )
