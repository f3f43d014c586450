"""MGDA: the shortest vector in the convex hull of the gradients.

Désidéri 2012, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization"; Sener &
Koltun 2018, "Multi-Task Learning as Multi-Objective Optimization":

    w = argmin |sum_t w_t g_t|^2  over  w >= 0, sum_t w_t = 1

The update lowers every loss, or is 0 where none can be lowered without raising another (Pareto
stationary). A task whose gradient is 0 therefore stops the shared parameters.

The point is computed exactly. With A' A = G and x = s w, sum w = 1, the least squares problem

    min |A x|^2 + r^2 (sum_t x_t - 1)^2  over  x >= 0

separates into the w above and a positive scale s, for any r: non-negative least squares solve it,
and w = x / sum x.

torchjd has the Frank-Wolfe iteration of Sener & Koltun, which is not used: it stops after 100 steps
or at a step below 0.001. How far that is from the end depends on the number of gradients and on
their dimension. In 300 sets of random directions with norms exp(N(0, s^2)), s = 0, 1, 2, its vector
was longer than the shortest by (median; exceeded in one set of ten)

    4 gradients: 0.01%; 0.6% in 30 dimensions, 0.004%; 0.09% in 1,000
    8 gradients: 1.6%; 12% in 30 dimensions, 0.2%; 6% in 1,000

and in the worst sets several times as long. The vector here meets the optimality conditions to
1e-11.

Differences: weights sum to K, not to 1, so that equal gradients give the plain sum. (Every w is a
solution then: the weights sum to K, but need not each be 1.) `normalize` is the authors'
`normalization_type` (their code, not in the paper): it changes the gradients that w is found for,
and w is then applied to the gradients as they are. The authors' sample configuration has `loss+`;
the default here is `none`, the method of the paper. Their code multiplies the losses by w, and so
weights the heads as well; here the private parameters of a task follow its own loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, SolverFailed, unit_scale

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("mgda", "MGDA")
@section
class MGDAWeighting(Balancing):
    """The shortest vector in the convex hull of the gradients (Désidéri 2012; Sener & Koltun 2018).

    When it helps: no task may get worse and none is preferred. It follows the shortest gradients,
    and stops when one task is done.

    Cost: K gradients, as with all methods on gradients, and a least squares problem of K numbers:
    0.99 to 1.05 times the time of the plain sum.
    """

    name: Literal["mgda"] = "mgda"
    """Method."""
    normalize: Literal["none", "l2", "loss", "loss+"] = "none"
    """Divisor of each gradient before the weights are computed: its norm (l2), its task's loss
    (loss), or both (loss+). The paper's method is none; its authors' sample configuration has
    loss+."""


class MGDA(GradientBalancing):
    """The minimum-norm point of the hull."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return K times the weights of the minimum-norm point."""
        divisor = self._divisor(step, gram)
        return len(gram) * minimum_norm(gram / divisor[:, None] / divisor)

    def _divisor(self, step: Step, gram: Tensor) -> Tensor:
        """Return the number by which each gradient is divided first: (K,)."""
        import torch

        divisor = torch.ones(len(gram), dtype=torch.float64)
        if self.config.normalize in ("l2", "loss+"):
            norms = gram.diagonal().sqrt()
            divisor = torch.where(norms > 0, norms, 1.0)  # A zero gradient stays zero.
        if self.config.normalize in ("loss", "loss+"):
            assert step.losses is not None, "losses are known before gradients are"
            losses = torch.tensor(
                [step.losses[name] for name in step.tasks], dtype=torch.float64
            ) * self.importance(step)
            if not bool((losses > 0).all()):
                raise SolverFailed("a loss is not positive, and gradients cannot be divided by it")
            divisor = divisor * losses
        return divisor


def minimum_norm(gram: Tensor) -> Tensor:
    """Return the weights (K,) >= 0, with sum 1, of the shortest convex combination of vectors with
    this Gram matrix."""
    import numpy as np
    import torch

    from mtlcli.weighting.nonnegative import nonnegative, unit_factor

    columns, norms = unit_factor(unit_scale(gram)[0])
    if not norms.all():
        return torch.from_numpy((norms == 0) / np.sum(norms == 0))
    # In the variables y_t = n_t x_t, columns have length 1; the row of ones becomes 1 / n_t, scaled
    # to at most 1.
    matrix = np.vstack([columns, norms.min() / norms])
    x = nonnegative(matrix, np.append(np.zeros(len(norms)), 1.0)) / norms
    return torch.from_numpy(x / x.sum())
