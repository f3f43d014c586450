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
from mtlcli.sampling.base import RandomSampling

if TYPE_CHECKING:
    import numpy as np


@samplings.register("temperature", "Temperature")
@section
class TemperatureSampling(SamplingConfig):
    """One task per step, drawn with probability proportional to min(size, cap)^(1/temperature)
    (Raffel et al. 2020)."""

    name: Literal["temperature"] = "temperature"
    """Policy."""
    temperature: Annotated[float, Ge(1)] = 2.0
    """Temperature: 1 is proportional; large values approach uniform."""
    cap: Annotated[int, Gt(0)] | None = None
    """Upper bound of a task's size in examples; null: none."""


class Temperature(RandomSampling):
    """Policy between proportional (T = 1) and uniform (T large) sampling."""

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of each task: (K,)."""
        import numpy as np

        sizes = np.array([self.sizes[name].examples for name in self.names], dtype=np.float64)
        if self.config.cap is not None:
            sizes = np.minimum(sizes, self.config.cap)
        # Sizes are divided by the largest first, so that no power overflows.
        rates = (sizes / sizes.max()) ** (1 / self.config.temperature)
        return rates / rates.sum()
