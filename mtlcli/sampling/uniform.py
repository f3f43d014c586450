"""Uniform sampling: one task a step, each equally often, whatever its size."""

from __future__ import annotations

import numpy as np

from mtlcli.sampling.base import RandomSampling


class Uniform(RandomSampling):
    """Policy that draws every task with probability 1 / K."""

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of each task: (K,)."""
        return np.full(len(self.names), 1 / len(self.names))
