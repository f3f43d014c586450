"""Aligned-MTL (Senushkin et al. 2023, "Independent Component Alignment for Multi-Task Learning",
algorithm 1).

The gradients' matrix J (K x P, here with rows g_t) has the singular values s_1 >= ... >= s_R > 0
and G = V diag(s^2) V'. All of them are made s_R, which gives the matrix closest to J with condition
number 1:

    J' = s_R V U'  for  J = V diag(s) U'
    update = sum_t J'_t,     weights = s_R V diag(1 / s) V' 1

`scale` replaces s_R by the median (of an even number the lower one) or the root mean square of the
s, as in the authors' code. R is the rank of J as far as fp32 can tell (rank.py). torchjd's
AlignedMTLWeighting is not used: it takes the rounding errors between two equal gradients for a
component, and makes every other component as short as that.

Differences: the paper averages the tasks; here the preferences are 1, so that equal gradients give
weights of 1. The importance of a task is a factor of its gradient before the alignment; the paper's
preferences come after it. With `min`, nearly parallel gradients give a short update, as in the
paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Balancing, weightings
from mtlcli.weighting.base import Step
from mtlcli.weighting.gradients.base import GradientBalancing, unit_scale

if TYPE_CHECKING:
    from torch import Tensor


@weightings.register("aligned", "Aligned")
@section
class AlignedWeighting(Balancing):
    """Aligned-MTL: scales the principal components of the gradients to equal length (Senushkin et
    al. 2023).

    When it helps: tasks whose gradients are nearly parallel or of very unlike length, so that one
    of them rules the sum.

    Cost: K gradients, as with all methods on gradients, and the eigenvalues of a K x K matrix.
    """

    name: Literal["aligned"] = "aligned"
    """Method."""
    scale: Literal["min", "median", "rmse"] = "min"
    """The common length: that of the shortest principal component (min), of the median one
    (median), or their root mean square (rmse)."""


class Aligned(GradientBalancing):
    """Gradients whose principal components are made equally long."""

    def solve(self, step: Step, gram: Tensor) -> Tensor:
        """Return the balance transformation times ones; 0 for a zero gradient."""
        import torch

        from mtlcli.weighting.rank import cosines_of, rank

        gram, _ = unit_scale(gram)
        there = gram.diagonal() > 0
        components = rank(cosines_of(gram[there][:, there])[0])
        squares, directions = torch.linalg.eigh(gram)
        squares, directions = squares[-components:], directions[:, -components:]
        lengths = {"min": squares[0], "median": squares.median(), "rmse": squares.mean()}
        return directions @ ((lengths[self.config.scale] / squares).sqrt() * directions.sum(0))
