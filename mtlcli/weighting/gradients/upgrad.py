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

import numpy as np
import torch
from torch import Tensor
from torchjd.aggregation import UPGradWeighting
from torchjd.linalg import DualConeProjector

from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, unit_scale
from mtlcli.weighting.gradients.nonnegative import nonnegative, unit_factor


class UPGrad(GradientBalancing):
    """The sum of the gradients projected onto the dual cone."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return the sums of the coefficients of the projections."""
        return UPGradWeighting(torch.ones(len(gram), dtype=torch.float64), ExactProjector())(
            unit_scale(gram)[0]
        )


class ExactProjector(DualConeProjector):
    """Projection onto the dual cone by non-negative least squares."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        """Return the weights v of the projection of each row u of U."""
        columns, norms = unit_factor(G)
        divisor = np.where(norms > 0, norms, 1.0)
        # In the variables n_t s_t, the columns of A have length 1.
        added = [nonnegative(columns, -columns @ (norms * u)) / divisor for u in U.numpy()]
        return U + torch.from_numpy(np.stack(added))
