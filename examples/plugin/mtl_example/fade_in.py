"""A weighting: every task but one fades in.

The weight of the main task is 1 from the first step on. The weights of the others rise in a
straight line from `start` to 1 over the first part of the run:

    w = start + (1 - start) * min(1, step / (share * steps))
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.errors import Problem
from mtlcli.registry import suggest
from mtlcli.weighting.base import LossWeighting, Step


@weightings.register("fade_in", "FadeIn")
@section
class FadeInWeighting(WeightingConfig):
    """The main task at once, the others little by little."""

    name: Literal["fade_in"] = "fade_in"
    """Method."""
    main: str | None = None
    """Name of the main task; null: the first of the run."""
    start: Annotated[float, Ge(0), Le(1)] = 0.0
    """Weight of the other tasks in the first step."""
    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of the run's steps after which all weights are 1."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Refuse a main task that the run does not have."""
        if self.main is not None and self.main not in trained:
            what = f"the run has no task '{self.main}'"
            yield Problem(what, "weighting.main", suggest(self.main, trained))


class FadeIn(LossWeighting):
    """Weights that are known before the step."""

    def weights(self, step: Step) -> dict[str, float]:
        """Return w times the importance of each task."""
        main = self.config.main or next(iter(self.tasks))
        risen = min(1.0, step.number / (self.config.share * step.total))
        others = self.config.start + (1 - self.config.start) * risen
        return {
            name: self.tasks[name].weight * (1.0 if name == main else others) for name in step.tasks
        }
