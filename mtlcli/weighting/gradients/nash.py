"""Nash-MTL (Navon et al. 2022, "Multi-Task Learning as a Bargaining Game").

Tasks bargain about the update d in a ball; the gain of task t is g_t . d. Nash's solution maximises
sum_t log(g_t . d): up to its length, d = sum_t a_t g_t with (claim 3.1)

    G a = 1 / a,   a > 0

This is FairGrad with alpha = 1; fairgrad.py has the solver, which finds the point to a relative
error of 1e-9 in a few iterations. torchjd's NashMTL (the authors' code) is not used: it needs two
more packages, keeps state in attributes, and when its solver fails returns the previous guess,
which is 1 for all tasks at first, without a warning. There is no solution where gradients are
opposed, or one is zero: the solver fails, and gradients/base.py says what is done then.

Scale: K equal gradients of norm n get 1 / (n sqrt(K)), not 1. The update is always sqrt(K) long,
since |d|^2 = a' G a = K: the method chooses a direction, not a length. `max_norm` (1, as in the
authors' code) shortens the update, to a length of 1 at each step. Multiplying a loss by a number
does not change the update, so that importance would do nothing.

Differences:
- The authors linearise the problem and stop after 20 convex programs, or once the equation holds to
  0.001. They give their solver G / |G| and undo the division in its constraints, so that their
  update, too, is sqrt(K) long before it is clipped.
- The authors sum up the losses with the weights a_t, and so weight the heads as well; here the
  private parameters of a task follow its own loss.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, Needs, weightings
from mtlcli.weighting.gradients.fairgrad import FairGrad


@weightings.register("nash", "Nash")
@section
class NashWeighting(Balancing):
    """Nash-MTL: the bargaining solution, which maximises the product of the tasks' gains (Navon et
    al. 2022).

    When it helps: gradients whose lengths differ by orders of magnitude: the scale of a loss has no
    influence.

    Cost: K gradients, as with all methods on gradients, and some Newton steps on K numbers: 1.00 to
    1.13 times the time of the plain sum.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """The requirements of the method."""
    name: Literal["nash"] = "nash"
    """Method."""
    max_norm: Annotated[float, Gt(0)] | None = 1.0
    """Largest norm of the update of the shared parameters; longer ones are scaled down. Null: its
    norm stays sqrt(K)."""


class Nash(FairGrad):
    """Nash's bargaining solution."""

    @property
    def alpha(self) -> float:
        """The alpha of proportional fairness."""
        return 1.0
