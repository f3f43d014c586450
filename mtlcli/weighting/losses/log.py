"""The loss transform of DB-MTL (Lin et al. 2023, "Dual-Balancing for Multi-Task Learning", section
3.1).

The objective is sum_t a_t log(L_t + 1e-8), a_t the task's importance, so that

    w_t = a_t / (L_t + 1e-8)

and every task's gradient is that of its loss relative to the loss: the scale of a loss does not
matter. The weights are not scaled: they grow as losses fall, as in the paper. The constant is that
of the authors' code. DB-MTL further brings the tasks' gradients to the same norm; that part is
gradient balancing and is not in this method.
"""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step

EPS = 1e-8


@weightings.register("log", "Log")
@section
class LogWeighting(WeightingConfig):
    """The sum of the logarithms of the losses (the loss transform of DB-MTL, Lin et al. 2023).

    When it helps: losses of unlike scale. The weights grow as losses fall, so small losses take
    over late in a run.

    Cost: none.
    """

    name: Literal["log"] = "log"
    """Method."""


class Log(LossWeighting):
    """The derivative of the logarithm."""

    when = "losses"

    def weights(self, step: Step) -> dict[str, float]:
        """Return a_t / (L_t + 1e-8)."""
        assert step.losses is not None
        return {name: self.tasks[name].weight / (step.losses[name] + EPS) for name in step.tasks}
