"""Temperature sampling: p(task) proportional to min(size, cap)^(1 / T).

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", section 3.5.2 (temperature-scaled examples-proportional mixing with an artificial data
set size limit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import RandomSampling, powers_of_sizes

if TYPE_CHECKING:
    import numpy as np


@samplings.register("temperature", "Temperature")
@section
class TemperatureSampling(SamplingConfig):
    """One task per step, drawn with probability proportional to min(size, cap)^(1/temperature)
    (Raffel et al. 2020).

    When it helps: sizes differ by orders of magnitude, as between languages, or one task has to be
    capped (`cap`).

    Cost: none.
    """

    name: Literal["temperature"] = "temperature"
    """Policy."""
    temperature: Annotated[float, Ge(1)] = 2.0
    """Temperature: 1 is proportional; large values approach uniform."""
    cap: Annotated[int, Gt(0)] | None = None
    """Upper bound of a task's size in examples; null: none."""


class Temperature(RandomSampling):
    """Policy between proportional (T = 1) and uniform (T large) sampling."""

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task, the same in every step: (K,)."""
        sizes: list[float] = [self.sizes[name].examples for name in self.names]
        if self.config.cap is not None:
            sizes = [min(size, self.config.cap) for size in sizes]
        return powers_of_sizes(sizes, 1 / self.config.temperature)
