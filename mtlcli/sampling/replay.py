"""Replay: most steps take the last task, a share of them the tasks before it.

Rows of earlier tasks are trained on again while a new one is learned; for language tasks that come
one after another: de Masson d'Autume et al. 2019, "Episodic Memory in Lifelong Language Learning";
Scialom et al. 2022, "Fine-tuned Language Models are Continual Learners". With K trained tasks in
the order of the run, of which the last is new, a step takes

    the last task with probability 1 - share, each other one with share / (K - 1)

Differences: nothing is written into a memory while it is seen, since all rows are there; an earlier
task is replayed from its whole train split, or from `tasks.NAME.max_train_rows` of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import RandomSampling

if TYPE_CHECKING:
    import numpy as np


@samplings.register("replay", "Replay")
@section
class ReplaySampling(SamplingConfig):
    """One task per step: the last task of the run, and in a share of the steps one of those before
    it (de Masson d'Autume et al. 2019).

    When it helps: tasks are learned one after another, and the earlier ones must not be forgotten.

    Cost: the share of the steps that earlier tasks take.
    """

    name: Literal["replay"] = "replay"
    """Policy."""
    share: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the steps that earlier tasks take, all together and each as often as the others; 0:
    they are not trained, and only scored."""


class Replay(RandomSampling):
    """Policy that takes the last task in most steps."""

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task, the same in every step: (K,)."""
        import numpy as np

        earlier = len(self.names) - 1
        share = self._share
        return np.array([*[share / max(1, earlier)] * earlier, 1 - share])

    @property
    def _share(self) -> float:
        """The share of the earlier tasks; 0 where there are none."""
        return float(self.config.share) if len(self.names) > 1 else 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in which the last task's batches are met once."""
        return math.ceil(self.sizes[self.names[-1]].batches / (1 - self._share))
