"""UW-SO, soft optimal uncertainty weighting (Kirchdorfer et al. 2024, "Analytical Uncertainty-Based
Loss Weighting in Multi-Task Learning").

The weights that `uncertainty` learns have a closed form: with the optimal variance of each task,
the total is that of losses divided by themselves, w_t = 1 / L_t with L_t held constant (the paper's
UW-O). A softmax with temperature T over these numbers normalises them:

    w_t = K exp(1 / (T L_t)) / sum_j exp(1 / (T L_j))

so that a task with a small loss weighs more, and a high temperature brings all weights near 1. The
losses are those of the step, over all devices. The importance of a task multiplies w_t; tasks of
importance 0 are left out of K and the softmax.

Differences: the paper's weights sum to 1, here to K, like those of the plain sum. The paper tunes
the temperature for each data set and names no default; that of 10 is ours. 1e-8 is added to losses.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt

from mtlcli.config.section import section
from mtlcli.config.weighting import Needs, WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step

EPS = 1e-8


@weightings.register("uw_so", "UWSO")
@section
class UWSOWeighting(WeightingConfig):
    """A softmax over the inverse losses, the closed form of `uncertainty` (UW-SO, Kirchdorfer et
    al. 2024).

    When it helps: as `uncertainty`, without learned numbers that lag behind the losses. The
    temperature has to be tuned.

    Cost: none.
    """

    needs: ClassVar[Needs] = Needs(several_tasks=True)
    """The requirements of the method."""
    name: Literal["uw_so"] = "uw_so"
    """Method."""
    temperature: Annotated[float, Gt(0)] = 10.0
    """Temperature of the softmax; the larger the value, the more equal the weights. The paper tunes
    it."""


class UWSO(LossWeighting):
    """A softmax over inverse losses."""

    when = "losses"

    def weights(self, step: Step) -> dict[str, float]:
        """Return w_t times the importance."""
        import torch

        assert step.losses is not None
        names = [name for name in step.tasks if self.tasks[name].weight > 0]
        inverse = torch.tensor(
            [1 / (step.losses[name] + EPS) for name in names], dtype=torch.float64
        )
        shares = (inverse / self.config.temperature).softmax(0)
        found = dict(zip(names, (len(names) * shares).tolist(), strict=True))
        return {name: self.tasks[name].weight * found.get(name, 0.0) for name in step.tasks}
