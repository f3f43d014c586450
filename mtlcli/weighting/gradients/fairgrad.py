"""FairGrad (Ban & Ji 2024, "Fair Resource Allocation in Multi-Task Learning", eq. 4).

The gain of task t from an update d is g_t . d. The d in a ball that maximises the alpha-fair sum of
gains sum_t (g_t . d)^(1 - alpha) / (1 - alpha) is, up to its length, d = sum_t w_t g_t with

    G w = w^(-1 / alpha),   w > 0

alpha = 1 is Nash-MTL, alpha to infinity the task that gains least (MGDA of normalised gradients),
alpha to 0 the plain sum.

The solution is the minimum of the strictly convex w' G w / 2 - sum_t w_t^p / p, p = 1 - 1 / alpha
(log w_t for p = 0). It exists unless gradients are opposed: unless some w >= 0 other than 0 has G w
= 0; a zero gradient is such a case. `fair_weights` finds it by Newton's method in float64 to a
relative error of 1e-9, or to what rounding leaves of it; see there. torchjd and the authors use
scipy's least_squares, which stops short of the solution without a warning when norms differ by
orders of magnitude.

The weights have the paper's scale, which is not that of the sum: K equal gradients of norm n get (K
n^2)^(-alpha / (1 + alpha)). `max_norm` (1, as in the authors' code) clips the update of the shared
parameters, wherever its weights came from. Difference: the authors' code multiplies the update by K
before it is clipped; this code does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, SolverFailed, unit_scale

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-9
MOST_ITERATIONS = 200
ROUNDING = 8 * 2.0**-52
"""Rounding error of a product with the Gram matrix, in float64."""
OPPOSED = 1e-3
"""Relative rounding error of the gains beyond which it cannot be decided whether gradients are
opposed."""


@weightings.register("fairgrad", "FairGrad")
@section
class FairGradWeighting(Balancing):
    """The update with alpha-fair gains of the tasks (Ban & Ji 2024).

    When it helps: you want to choose between the sum and the worst task: `alpha` leads from one to
    the other.

    Cost: K gradients, as with all methods on gradients, and some Newton steps on K numbers.
    """

    name: Literal["fairgrad"] = "fairgrad"
    """Method."""
    alpha: Annotated[float, Gt(0)] = 2.0
    """Fairness: near 0, the sum of the gains counts; 1 is Nash-MTL; the larger the value, the more
    counts the task that gains least."""
    max_norm: Annotated[float, Gt(0)] | None = 1.0
    """Largest norm of the update of the shared parameters; longer ones are scaled down. Null: no
    bound."""


class FairGrad(GradientBalancing):
    """An update with alpha-fair gains."""

    @property
    def alpha(self) -> float:
        """The alpha of the alpha-fair sum."""
        return float(self.config.alpha)

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return the fair weights."""
        return fair_weights(gram, self.alpha)


def fair_weights(gram: Tensor, alpha: float) -> Tensor:
    """Return the w > 0 with G w = w^(-1 / alpha). Raises SolverFailed.

    With relative steps d, w <- w (1 + t d), the Newton equation is

        (W G W + diag(w^p) / alpha) d = w^p - w G w,   W = diag(w), p = 1 - 1 / alpha

    The third derivative of the objective is at most (1 + 1/alpha) max|d| times the second along d,
    which bounds how far the quadratic model can be off. With m = max|d| the bound is lowest at

        t = (1 - (1 + m / alpha)^(-alpha)) / m

    so that every step descends, stays positive, and becomes Newton's as m -> 0: no line search
    (alpha = 1: t = 1 / (1 + m)).
    """
    import torch

    gram, scale = unit_scale(gram)
    diagonal = gram.diagonal()
    if not bool((diagonal > 0).all()):
        raise SolverFailed("a gradient is zero, and its task would need an infinite weight")
    weights = diagonal ** (-alpha / (1 + alpha))  # The solution if gradients were orthogonal.
    for _ in range(MOST_ITERATIONS):
        goal = weights ** (1 - 1 / alpha)
        missing = goal - weights * (gram @ weights)
        # Where gradients are nearly opposed, gains are differences of large numbers, and float64
        # cannot tell them more precisely than this.
        rounding = ROUNDING * weights * (gram.abs() @ weights)
        if bool((rounding > OPPOSED * goal).any()):
            raise SolverFailed("no fair weights: the gradients are opposed")
        if bool((missing.abs() <= TOLERANCE * goal + rounding).all()):
            # Back to the scale of the gradients: s G w = w^(-1 / alpha) for w = s^(-alpha / (1 +
            # alpha)) times the unit solution.
            return weights * scale ** (-alpha / (1 + alpha))
        hessian = weights[:, None] * gram * weights + torch.diag(goal / alpha)
        step = torch.cholesky_solve(missing[:, None], torch.linalg.cholesky(hessian))[:, 0]
        most = step.abs().max()
        weights = weights * (1 + step * (1 - (1 + most / alpha) ** -alpha) / most)
    raise SolverFailed(
        f"no fair weights after {MOST_ITERATIONS} iterations: the gradients are opposed, or nearly "
        "so"
    )
