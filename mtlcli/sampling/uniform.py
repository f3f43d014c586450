"""Uniform sampling: one task a step, each equally often, whatever its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import RandomSampling

if TYPE_CHECKING:
    import numpy as np


@samplings.register("uniform", "Uniform")
@section
class UniformSampling(SamplingConfig):
    """One task per step, each equally often.

    When it helps: as `round_robin`, when the order within the run should be drawn.

    Cost: none.
    """

    name: Literal["uniform"] = "uniform"
    """Policy."""


class Uniform(RandomSampling):
    """Policy that draws every task with probability 1 / K."""

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task, the same in every step: (K,)."""
        import numpy as np

        return np.full(len(self.names), 1 / len(self.names))
