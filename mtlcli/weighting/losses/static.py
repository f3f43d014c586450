"""Static weights: total = sum_t w_t L_t with w_t = `tasks.NAME.weight`, equal by default.

A tuned static sum is the baseline that adaptive methods have to beat (Kurin et al. 2022, "In
Defense of the Unitary Scalarization for Deep Multi-Task Learning"; Xin et al. 2022, "Do Current
Multi-Task Optimization Methods in Deep Learning Even Help?").
"""

from __future__ import annotations

from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting, Step


@weightings.register("static", "Static")
@section
class StaticWeighting(WeightingConfig):
    """Fixed weights: the sum of the tasks' losses, each times its `tasks.NAME.weight`.

    When it helps: always as the first run. A sum with tuned weights is the baseline for everything
    else here.

    Cost: none; tuning takes a run for each choice of weights.
    """

    name: Literal["static"] = "static"
    """Method."""


class Static(LossWeighting):
    """The weights of the config, unchanged through the run."""

    def weights(self, step: Step) -> dict[str, float]:
        """Return the importance of each task."""
        return {name: self.tasks[name].weight for name in step.tasks}
