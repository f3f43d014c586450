"""A sampling policy: which tasks, and how many examples of each, make up a step.

`plan(step)` is a pure function of the seed and the step, so that every rank and every resumed run
plans the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class TaskSize:
    """The size of a task that is trained."""

    examples: int
    """Number of features in an epoch of this task."""
    batches: int
    """Number of batches in an epoch of this task."""
    batch_size: int
    """Number of examples of this task in a step."""


class Sampling(ABC):
    """Base class of the policies."""

    def __init__(self, config: Any, sizes: dict[str, TaskSize], seed: int) -> None:
        self.config = config
        self.sizes = sizes
        self.names = list(sizes)
        self.seed = seed

    @abstractmethod
    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return the tasks of step `step` (counted from 0) with the number of examples of each."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in one pass over the data: the batches of all tasks together, since a
        step takes one task."""
        return sum(size.batches for size in self.sizes.values())


class RandomSampling(Sampling):
    """Base class of the policies that draw one task a step, independently, with fixed
    probabilities."""

    @property
    @abstractmethod
    def probabilities(self) -> np.ndarray:
        """Probability of each task, in the order of `names`: (K,)."""

    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return one task, drawn by a generator seeded with (seed, step), with its batch size."""
        import numpy as np

        draw = np.random.default_rng((self.seed, step)).random()
        # The last edge is 1 up to rounding: searching only the inner edges keeps the index in
        # range.
        index = int(np.searchsorted(np.cumsum(self.probabilities)[:-1], draw, side="right"))
        name = self.names[index]
        return [(name, self.sizes[name].batch_size)]
