"""CAGrad (Liu et al. 2021, "Conflict-Averse Gradient Descent for Multi-task Learning").

With the mean gradient g_0, the update d is the best one, within a ball around g_0, for the task
that it helps least:

    max_d min_t d . g_t   with   |d - g_0| <= c |g_0|

whose dual (eq. 3) is the minimum of g_w . g_0 + c |g_0| |g_w| over g_w = sum_t w_t g_t, w on the
simplex, and d = g_0 + c |g_0| / |g_w| g_w, on the edge of the ball.

torchjd's CAGradWeighting solves the dual with cvxpy and clarabel (the authors: SLSQP of scipy).
Differences:
- d is times K, so that c = 0 is the plain sum. The authors divide by 1 + c^2 on top, a matter of
  the learning rate that is left out: K equal gradients give weights of 1 + c, the point of the ball
  that helps most.
- Where g_w = 0, the formula has no direction. The authors' code then gives g_0, the centre of the
  ball, and so does this one; torchjd's gives 0, which is outside it: one task without a gradient
  would stop the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, Needs, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, SolverFailed, unit_scale

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("cagrad", "CAGrad")
@section
class CAGradWeighting(Balancing):
    """The update near the sum with the largest gain for the task that gains least (Liu et al.
    2021); needs `mtlcli[cagrad]`.

    When it helps: a task would lose by the plain sum; `c` leads from the mean (0) towards the task
    that gains least.

    Cost: K gradients, as with all methods on gradients, and a small convex program in each step:
    1.00 to 1.19 times the time of the plain sum.
    """

    needs: ClassVar[Needs] = Needs(
        several_tasks=True, shared_parameters=True, packages=("cvxpy", "clarabel"), extra="cagrad"
    )
    """The requirements of the method."""
    name: Literal["cagrad"] = "cagrad"
    """Method."""
    c: Annotated[float, Ge(0), Lt(1)] = 0.4
    """How far the update may be from the sum, as a multiple of the sum's length; 0: the sum
    itself."""


class CAGrad(GradientBalancing):
    """The best update for the worst-off task in a ball around the sum."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return K times the weights of d."""
        import torch
        from cvxpy.error import SolverError
        from torchjd import aggregation

        try:
            weights = aggregation.CAGradWeighting(c=self.config.c)(unit_scale(gram)[0])
        except (SolverError, ValueError) as error:
            # ValueError: cvxpy gave a status and no solution, and torchjd calculates with the None
            # that stands for it.
            raise SolverFailed(f"cvxpy: {error}") from error
        return len(gram) * weights if weights.any() else torch.ones_like(weights)
