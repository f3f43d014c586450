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
    """One task per step, each equally often."""

    name: Literal["uniform"] = "uniform"
    """Policy."""


class Uniform(RandomSampling):
    """Policy that draws every task with probability 1 / K."""

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of each task: (K,)."""
        import numpy as np

        return np.full(len(self.names), 1 / len(self.names))
