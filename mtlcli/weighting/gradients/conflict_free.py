"""ConFIG (Liu et al. 2024, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
Networks", eq. 2 and 3).

With the unit gradients u_t = g_t / n_t as rows of U, the update has the same cosine to every
gradient, and its length is the sum of their projections onto it:

    x = U^+ 1,   d = (sum_t g_t . x / |x|) x / |x|

Through the Gram matrix G = D C D, D = diag(n): with v = C^+ 1, x = sum_t v_t u_t, C v = U x (1
where U has full rank) and |x|^2 = v' C v, so that the weights are

    w_t = (sum_s n_s (C v)_s) / (v' C v) * v_t / n_t

C^+ is the pseudo-inverse of rank.py, which states the tolerance below which eigenvalues count as 0.
K equal gradients give weights of 1. torchjd's ConFIG works on the K x P gradient rows; this gives
the same without them. Weights may be negative.

The importance of a task changes the length of d and not its direction; since `tasks.NAME.weight`
does not mean a factor of the whole update, it must be 1. A task whose gradient is zero has no
direction and is left out. Opposed gradients, for which x = 0, count as a failure of the solver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, Needs, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, SolverFailed, unit_scale

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("conflict_free", "ConflictFree")
@section
class ConflictFreeWeighting(Balancing):
    """ConFIG: the direction with the same positive cosine to every gradient, as long as the sum of
    their projections onto it (Liu et al. 2024).

    When it helps: few losses that contradict one another. The paper has physics-informed networks,
    with an equation beside boundary conditions.

    Cost: K gradients, as with all methods on gradients, and a K x K pseudo-inverse.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True, shared_parameters=True, unit_importance=True)
    """The requirements of the method."""
    name: Literal["conflict_free"] = "conflict_free"
    """Method."""


class ConflictFree(GradientBalancing):
    """An update with the same cosine to every gradient."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return the weights of d; 1 for a zero gradient, whose weight does not matter."""
        import torch

        from mtlcli.weighting.rank import cosines_of, equal_cosines

        gram, _ = unit_scale(gram)
        there = gram.diagonal() > 0
        cosines, norms = cosines_of(gram[there][:, there])
        v = equal_cosines(cosines)
        reached = cosines @ v
        length = v @ reached
        if length <= 1e-12:
            raise SolverFailed(
                "the gradients are opposed: no direction has the same positive cosine to all"
            )
        weights = torch.ones(len(gram), dtype=torch.float64)
        weights[there] = (norms @ reached) / length * v / norms
        return weights
