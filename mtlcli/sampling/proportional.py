"""Proportional sampling: one task a step, each task as often as it has batches.

As in MT-DNN (Liu et al. 2019, "Multi-Task Deep Neural Networks for Natural Language Understanding",
algorithm 1): the batches of all tasks are put into one pile, shuffled anew each epoch. Every
example is met exactly once an epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import Sampling

if TYPE_CHECKING:
    import numpy as np


@samplings.register("proportional", "Proportional")
@section
class ProportionalSampling(SamplingConfig):
    """One task per step; an epoch goes through all tasks once, in a newly shuffled order (Liu et
    al. 2019, MT-DNN).

    When it helps: tasks of similar size, or large tasks that deserve their share. Every example
    counts once an epoch.

    Cost: none.
    """

    name: Literal["proportional"] = "proportional"
    """Policy."""


class Proportional(Sampling):
    """Policy that takes one task a step from a pile that holds each task once for each of its
    batches."""

    _pile: tuple[int, np.ndarray] | None = None

    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return the task that lies at this step's place in the shuffled pile of the step's epoch,
        with its batch size."""
        import numpy as np

        epoch, place = divmod(step, self.steps_per_epoch)
        if self._pile is None or self._pile[0] != epoch:
            pile = np.repeat(
                np.arange(len(self.names)), [self.sizes[name].batches for name in self.names]
            )
            self._pile = epoch, np.random.default_rng((self.seed, epoch)).permutation(pile)
        name = self.names[self._pile[1][place]]
        return [(name, self.sizes[name].batch_size)]
