"""Annealed sampling: p(task) proportional to N^alpha, with an alpha that falls over the run.

Stickland & Murray 2019, "BERT and PALs: Projected Attention Layers for Efficient Adaptation in
Multi-Task Learning", section 4.1:

    alpha = 1 - 0.8 (e - 1) / (E - 1)

for epoch e of E, so that training begins with proportional sampling and ends with tasks nearly
equal. N is the task's number of examples.

Difference: alpha falls with every step, from `start` at the first step to `end` at the last,
instead of once an epoch. The authors' code takes 2,400 steps for an epoch, whatever the data, and
in a run of one epoch its alpha would be 0 / 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import RandomSampling, powers_of_sizes

if TYPE_CHECKING:
    import numpy as np


@samplings.register("annealed", "Annealed")
@section
class AnnealedSampling(SamplingConfig):
    """One task per step, with probability proportional to size^alpha, where alpha falls over the
    run (Stickland & Murray 2019).

    When it helps: sizes differ much: large tasks first, nearly equal shares at the end, so that no
    task is forgotten.

    Cost: none.
    """

    name: Literal["annealed"] = "annealed"
    """Policy."""
    start: Annotated[float, Ge(0), Le(10)] = 1.0
    """Alpha at the first step: 1 is proportional, 0 is uniform."""
    end: Annotated[float, Ge(0), Le(10)] = 0.2
    """Alpha at the last step."""


class Annealed(RandomSampling):
    """Policy that goes in a straight line from one exponent of the sizes to another."""

    def alpha(self, step: int) -> float:
        """Return the exponent of the sizes at step `step`."""
        start, end = self.config.start, self.config.end
        return float(start + (end - start) * min(1.0, step / max(1, self.steps - 1)))

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task at step `step`: (K,)."""
        sizes: list[float] = [self.sizes[name].examples for name in self.names]
        return powers_of_sizes(sizes, self.alpha(step))

    def statistics(self, step: int) -> dict[str, Any]:
        """Return alpha."""
        return {"alpha": self.alpha(step)}
