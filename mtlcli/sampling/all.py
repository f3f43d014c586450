"""All tasks in every step: the joint loss of the multi-task papers, one micro-batch of each
task."""

from __future__ import annotations

from typing import ClassVar, Literal

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import Sampling


@samplings.register("all", "All")
@section
class AllSampling(SamplingConfig):
    """Every task in every step; small tasks are repeated until the largest one is through.

    When it helps: tasks of similar size, and whatever compares tasks within a step: methods on
    gradients, `logger.probe`, `logger.affinity`.

    Cost: a step holds a batch of each task, and small tasks are repeated until the largest is
    through.
    """

    all_tasks: ClassVar[bool] = True
    """Every step holds every task."""
    name: Literal["all"] = "all"
    """Policy."""


class All(Sampling):
    """Policy whose steps hold a batch of every task. Tasks with fewer batches start over until the
    largest one is through."""

    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return all tasks, in the order of the config, with their batch sizes."""
        return [(name, size.batch_size) for name, size in self.sizes.items()]

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of the largest task."""
        return max(size.batches for size in self.sizes.values())
