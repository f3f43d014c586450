"""Round robin: one task a step, all tasks in turn, in the order of the configuration."""

from __future__ import annotations

from typing import Literal

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import Sampling


@samplings.register("round_robin", "RoundRobin")
@section
class RoundRobinSampling(SamplingConfig):
    """One task per step, all tasks in turn, whatever their sizes.

    When it helps: small tasks matter as much as large ones. Their rows are repeated, so watch for
    overfitting.

    Cost: none.
    """

    name: Literal["round_robin"] = "round_robin"
    """Policy."""


class RoundRobin(Sampling):
    """Policy that goes through the tasks again and again. K successive steps hold each task
    once."""

    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return the task whose turn it is, with its batch size."""
        name = self.names[step % len(self.names)]
        return [(name, self.sizes[name].batch_size)]
