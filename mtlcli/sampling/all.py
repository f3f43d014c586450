"""All tasks in every step: the joint loss of the multi-task papers, one micro-batch of each
task."""

from __future__ import annotations

from mtlcli.sampling.base import Sampling


class All(Sampling):
    """Every step holds a batch of every task; tasks with fewer batches start over until the largest
    is through."""

    def plan(self, step: int) -> list[tuple[str, int]]:
        """All tasks, in the order of the config."""
        return [(name, size.batch_size) for name, size in self.sizes.items()]

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the largest task."""
        return max(size.batches for size in self.sizes.values())
