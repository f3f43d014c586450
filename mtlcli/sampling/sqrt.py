"""Square-root sampling: p(task) proportional to the square root of the task's number of examples.

Stickland & Murray 2019, "BERT and PALs: Projected Attention Layers for Efficient Adaptation in
Multi-Task Learning", section 4.1. The same as `temperature` with T = 2 and no cap, under the name
that papers give it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import RandomSampling, powers_of_sizes

if TYPE_CHECKING:
    import numpy as np


@samplings.register("sqrt", "Sqrt")
@section
class SqrtSampling(SamplingConfig):
    """One task per step, with probability proportional to the square root of its size (Stickland &
    Murray 2019).

    When it helps: sizes differ much, and neither proportional nor equal shares are right.

    Cost: none.
    """

    name: Literal["sqrt"] = "sqrt"
    """Policy."""


class Sqrt(RandomSampling):
    """Policy half-way between proportional and uniform sampling."""

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task, the same in every step: (K,)."""
        return powers_of_sizes([self.sizes[name].examples for name in self.names], 0.5)
