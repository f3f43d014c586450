"""PCGrad (Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1).

Each gradient g_i meets those of the other tasks j in random order. Where it conflicts with g_j, its
part along g_j is removed:

    if g_i . g_j < 0:   g_i <- g_i - (g_i . g_j) / |g_j|^2 g_j

and the update is the sum of what is left. For two tasks no negative projection is left; for more, a
later projection may bring back an earlier conflict. Gradients without conflict give weights of 1.

torchjd's PCGradWeighting does this on the Gram matrix, exactly. The orders are a pure function of
the run's seed and the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, drawing

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("pcgrad", "PCGrad")
@section
class PCGradWeighting(Balancing):
    """Projects each gradient onto the normal plane of those it conflicts with (Yu et al. 2020).

    When it helps: gradients that often conflict (cosines below 0 in `logger.probe`), are of unlike
    length, and meet high curvature: the paper's three conditions.

    Cost: K gradients, as with all methods on gradients, and K x K projections on their Gram matrix:
    0.98 to 1.06 times the time of the plain sum.
    """

    name: Literal["pcgrad"] = "pcgrad"
    """Method."""


class PCGrad(GradientBalancing):
    """Gradients whose conflicting parts are projected away, pair by pair."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return the sums of the coefficients of the projected gradients."""
        from torchjd import aggregation

        with drawing(step):
            return aggregation.PCGradWeighting()(gram)
