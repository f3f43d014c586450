"""A sampling policy: which tasks, and how many examples of each, make up a step.

`plan(step)` is a pure function of the seed, the step and the policy's state, so that every rank and
every resumed run plans the same. Most policies have no state. Those that have one learn from what
is the same on every rank, and their state is part of a checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

BLOCK = 64
"""The number of steps whose draws are spread evenly over the probabilities."""


@dataclass(frozen=True)
class TaskSize:
    """The size of a task that is trained."""

    examples: int
    """Number of features in an epoch of this task."""
    batches: int
    """Number of batches in an epoch of this task."""
    batch_size: int
    """Number of examples of this task in a step."""


@dataclass(frozen=True)
class GradientNoise:
    """The size and the noise of a task's gradient of the shared parameters."""

    square: float
    """Estimate of the squared norm of the expected gradient; it may be below 0 by chance."""
    variance: float
    """Variance of the gradient of one batch: that of one example divided by the batch's size."""


class Sampling(ABC):
    """Base class of the policies."""

    def __init__(self, config: Any, sizes: dict[str, TaskSize], seed: int) -> None:
        self.config = config
        self.sizes = sizes
        self.names = list(sizes)
        self.seed = seed
        self.steps = 0
        """The number of steps that the policy plans, those of the run or of a stage; known once
        `fit` was called."""

    def fit(self, steps: int) -> None:
        """Take the number of steps that the policy will plan. Called before the first plan. Raises
        UserError when the policy cannot plan so many."""
        self.steps = steps

    @abstractmethod
    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return the tasks of step `step` (counted from 0) with the number of examples of each."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in one pass over the data: the batches of all tasks together, since a
        step takes one task."""
        return sum(size.batches for size in self.sizes.values())

    def note_results(self, results: Mapping[str, Any]) -> None:
        """Learn from an evaluation, given as in results.json. Called on every rank with the same
        numbers."""

    def gradient_batches(self, step: int) -> int:
        """Return how many batches of each task shall be measured before step `step`, for
        `note_gradients`; 0: none."""
        return 0

    def note_gradients(self, found: Mapping[str, GradientNoise]) -> None:
        """Learn from the measured gradients of all tasks. Called on every rank with the same finite
        numbers."""

    def statistics(self, step: int) -> dict[str, Any]:
        """Return what metrics.jsonl should say about the policy at step `step`, as JSON values."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError when it does not fit."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, found {sorted(state)}")


class RandomSampling(Sampling):
    """Base class of the policies that draw one task a step.

    The draws of BLOCK successive steps are stratified: one random number falls into each interval
    of length 1 / BLOCK, and the intervals come in random order. The number of each step is uniform,
    so that a step holds a task with exactly the task's probability, and the share that a task gets
    of many steps is far closer to its probability than with independent draws.
    """

    _draws: tuple[int, np.ndarray] | None = None

    @abstractmethod
    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task at step `step`, in the order of `names`: (K,)."""

    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return one task, drawn by a generator seeded with (seed, block of the step), with its
        batch size."""
        import numpy as np

        block, place = divmod(step, BLOCK)
        if self._draws is None or self._draws[0] != block:
            random = np.random.default_rng((self.seed, block))
            self._draws = block, (random.permutation(BLOCK) + random.random(BLOCK)) / BLOCK
        # The last edge is 1 up to rounding: searching only the inner edges keeps the index in
        # range.
        edges = np.cumsum(self.probabilities(step))[:-1]
        name = self.names[int(np.searchsorted(edges, self._draws[1][place], side="right"))]
        return [(name, self.sizes[name].batch_size)]


def powers_of_sizes(sizes: list[float], exponent: float) -> np.ndarray:
    """Return probabilities proportional to size^exponent: (K,)."""
    import numpy as np

    numbers = np.array(sizes, dtype=np.float64)
    # Sizes are divided by the largest first, so that no power overflows.
    rates = (numbers / numbers.max()) ** exponent
    return rates / rates.sum()
