"""The stages of a run: the tasks of each stage, its first step and its length.

Most runs have one stage with all tasks. A stage has its own sampling policy over its tasks, which
counts steps from the stage's beginning, and a learning rate that rises and falls within the stage.
The TrainState holds the progress of the run, so that a resumed run continues in the same stage: a
stage begins before a step, and the state alone decides whether a stage is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

from mtlcli.errors import UserError, count_of
from mtlcli.sampling.base import GradientNoise, Sampling
from mtlcli.training.state import Stage


class Stages:
    """The stages of a run, in order."""

    def __init__(self, samplings: list[Sampling], *, patience: int | None = None) -> None:
        """Take the sampling policies of the stages.

        `samplings`: one policy for each stage. `patience`: the number of evaluations without a
        better average of the stage's tasks after which a stage ends, or None.
        """
        self.samplings = samplings
        self.patience = patience
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self.samplings)

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in one pass over the data of all stages."""
        return sum(sampling.steps_per_epoch for sampling in self.samplings)

    def fit(self, steps: int, lengths: list[int] | None = None) -> None:
        """Set the lengths of the stages in a run of `steps` steps. `lengths`: the lengths of all
        stages but the last; None: lengths in proportion to the size of the stages' data.

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
        for sampling, length in zip(self.samplings, self._lengths, strict=True):
            sampling.fit(length)

    @property
    def shortest(self) -> int:
        """The number of steps of the shortest stage. Call `fit` first."""
        return min(self._lengths)

    def spans(self) -> list[tuple[int, int]]:
        """Return the first step of each stage and the one before which it ends at the latest. Call
        `fit` first."""
        return list(pairwise([0, *accumulate(self._lengths)]))

    def end(self, stage: Stage, steps: int) -> int:
        """Return the step before which a stage ends at the latest. The last stage ends with the run
        of `steps` steps."""
        return steps if stage.number == len(self) - 1 else stage.begin + self._lengths[stage.number]

    def is_over(self, stage: Stage, step: int, steps: int) -> bool:
        """Return whether a stage ends before step `step`."""
        return step >= self.end(stage, steps) or (
            self.patience is not None and stage.stale >= self.patience
        )

    def is_last(self, stage: Stage) -> bool:
        """Return whether a stage is the last one."""
        return stage.number == len(self) - 1

    def tasks(self, stage: Stage) -> list[str]:
        """Return the tasks that are trained in a stage."""
        return self.samplings[stage.number].names

    def plan(self, stage: Stage, step: int) -> list[tuple[str, int]]:
        """Return the tasks of step `step` with the number of examples of each."""
        return self.samplings[stage.number].plan(step - stage.begin)

    def gradient_batches(self, stage: Stage, step: int) -> int:
        """Return how many batches of each task the sampling wants measured before step `step`."""
        return self.samplings[stage.number].gradient_batches(step - stage.begin)

    def note_gradients(self, stage: Stage, found: Mapping[str, GradientNoise]) -> None:
        """Let the sampling learn from the measured gradients of the stage's tasks."""
        self.samplings[stage.number].note_gradients(found)

    def statistics(self, stage: Stage, step: int) -> dict[str, Any]:
        """Return what metrics.jsonl should say about the sampling of step `step`."""
        return self.samplings[stage.number].statistics(step - stage.begin)

    def state_dict(self, stage: Stage) -> dict[str, Any]:
        """Return the state of the present stage's sampling: no other one will plan a step with what
        it has learned."""
        return self.samplings[stage.number].state_dict()

    def load_state_dict(self, stage: Stage, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError when it does not fit."""
        self.samplings[stage.number].load_state_dict(state)

    def note_results(self, stage: Stage, results: dict[str, Any]) -> None:
        """Record an evaluation: let the sampling learn from it, and count the stage's best average
        and the number of evaluations since then."""
        self.samplings[stage.number].note_results(results)
        scores = [
            results["tasks"][name]["main"] for name in self.tasks(stage) if name in results["tasks"]
        ]
        scores = [score for score in scores if score is not None]
        # Without a labelled split there is no score that could stop improving.
        if not scores or stage.best is None or sum(scores) / len(scores) > stage.best:
            stage.best, stage.stale = sum(scores) / len(scores) if scores else None, 0
        else:
            stage.stale += 1

    def describe(self, stage: Stage, steps: int) -> str:
        """Return a line for the user about a stage."""
        return (
            f"stage {stage.number + 1} of {len(self)}: {', '.join(self.tasks(stage))}, steps "
            f"{stage.begin} to {self.end(stage, steps)}"
        )
