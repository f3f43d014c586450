"""Geometric loss strategy, GLS (Chennupati et al. 2019, "MultiNet++: Multi-Stream Feature
Aggregation and Geometric Loss Strategy for Multi-Task Learning").

The objective is the geometric mean of the losses, here weighted by the tasks' importance a_t (the
paper's when all are 1):

    G = prod_t L_t^(a_t / A),  A = sum_j a_j        w_t = A dG/dL_t = a_t G / L_t

The factor A makes equal losses give w_t = a_t, the weights of the plain sum; without it they would
be 1/K of that. The direction is that of sum_t a_t log L_t, so that the scale of a loss does not
matter, but its importance does. A loss of 0 stops the run: the geometric mean is 0 there and its
derivative is not finite. torchjd's GeometricMean has no importance; the tests compare with it.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step, WeightedTask
from mtlcli.weighting.losses.positive import positive_losses


@weightings.register("gls", "GLS")
@section
class GLSWeighting(WeightingConfig):
    """Geometric loss strategy: the geometric mean of the losses (Chennupati et al. 2019).

    When it helps: losses of unlike scale, where no task may stay behind. It needs losses above 0.

    Cost: none.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """The requirements of the method."""
    name: Literal["gls"] = "gls"
    """Method."""


class GLS(LossWeighting):
    """The derivative of the geometric mean."""

    when = "losses"

    def weights(self, step: Step) -> dict[str, float]:
        """Return a_t G / L_t."""
        return geometric_weights(step, self.tasks, "gls")


def geometric_weights(step: Step, tasks: dict[str, WeightedTask], method: str) -> dict[str, float]:
    """Return a_t G / L_t for the tasks of the step. Raises RunError when a loss is 0 or
    negative."""
    losses = positive_losses(step, tasks, method)
    weights = dict.fromkeys(step.tasks, 0.0)
    if losses:
        total = sum(tasks[name].weight for name in losses)
        mean = math.exp(
            sum(tasks[name].weight * math.log(loss) for name, loss in losses.items()) / total
        )
        weights |= {name: tasks[name].weight * mean / loss for name, loss in losses.items()}
    return weights
