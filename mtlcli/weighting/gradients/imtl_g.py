"""IMTL-G (Liu et al. 2021, "Towards Impartial Multi-task Learning", section 3.1).

The update has the same projection onto every gradient, with weights of sum 1:

    d = sum_t a_t g_t,   d . g_s / |g_s| = d . g_t / |g_t|  for all s, t,   sum_t a_t = 1

With the matrix of cosines C and the norms n_t = |g_t| that is C v ~ 1 and a_t ~ v_t / n_t: a = (v /
n) / sum(v / n) with v = C^+ 1, where C^+ is the pseudo-inverse of rank.py, which states the
tolerance below which eigenvalues count as 0. Weights may be negative. Where gradients are linearly
dependent and no update has equal projections, d is the one that comes closest (least squares).

Multiplying a loss by a number changes d in its length alone, so that importance would do nothing.

Differences:
- a is times K, so that equal gradients give weights of 1.
- The paper's condition of sum 1 can only be met by a projection below 0 when the gradients' plane
  lies so; such a d raises every loss, and counts as a failure of the solver, like opposed
  gradients. Tasks without a gradient are left out.
- The authors sum up the losses with the weights a_t, and so weight the heads as well; here the
  private parameters of a task follow its own loss.

torchjd's IMTLGWeighting is not used: its pseudo-inverse of the Gram matrix takes what rounding in
fp32 leaves of dependent gradients for information, and so gives weights of any size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, Needs, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, SolverFailed, unit_scale

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("imtl_g", "IMTLG")
@section
class IMTLGWeighting(Balancing):
    """The update with the same projection onto every gradient (Liu et al. 2021).

    When it helps: gradients of unlike length, of which none should rule.

    Cost: K gradients, as with all methods on gradients, and a K x K pseudo-inverse.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """The requirements of the method."""
    name: Literal["imtl_g"] = "imtl_g"
    """Method."""


class IMTLG(GradientBalancing):
    """An update with equal projections onto all gradients."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return K times the weights of sum 1; 0 for a zero gradient."""
        import torch

        from mtlcli.weighting.rank import cosines_of, equal_cosines

        gram, _ = unit_scale(gram)
        there = gram.diagonal() > 0
        cosines, norms = cosines_of(gram[there][:, there])
        v = equal_cosines(cosines)
        shares = v / norms
        projections = cosines @ v / shares.sum()
        if not bool((projections > 0).all()):
            raise SolverFailed("no update has the same positive projection onto all gradients")
        weights = torch.zeros(len(gram), dtype=torch.float64)
        weights[there] = len(gram) * shares / shares.sum()
        return weights
