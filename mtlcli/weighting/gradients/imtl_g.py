"""IMTL-G (Liu et al. 2021, "Towards Impartial Multi-task Learning", section 3.1).

The update has the same projection onto every gradient, with weights of sum 1:

    d = sum_t a_t g_t,   d . g_s / |g_s| = d . g_t / |g_t|  for all s, t,   sum_t a_t = 1

that is, G a ~ n with the norms n_t = |g_t|: torchjd's IMTLGWeighting takes a = G^+ n / sum(G^+ n). Weights may be negative.

Multiplying a loss by a number changes d in its length alone, so that importance would do nothing.
Differences: a is times K, so that equal gradients give weights of 1. The paper's condition of sum 1 can only be met by a
projection below 0 when the gradients' plane lies so; such a d raises every loss, and counts as a failure of the solver, like
gradients for which equal projections do not exist (opposed ones). Tasks without a gradient are left out.
"""

from __future__ import annotations

from torch import Tensor
from torchjd.aggregation import IMTLGWeighting

from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, SolverFailed, unit_scale


class IMTLG(GradientBalancing):
    """Equal projections onto all gradients."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """K times the weights of sum 1."""
        gram, _ = unit_scale(gram)
        norms = gram.diagonal().sqrt()
        weights = IMTLGWeighting()(gram)
        projections = ((gram @ weights) / norms)[norms > 0]
        if projections.min() <= 0 or projections.max() > 1.001 * projections.min():
            raise SolverFailed("no update has the same positive projection onto all gradients")
        return len(gram) * weights
