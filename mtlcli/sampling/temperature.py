"""Temperature sampling: p(task) proportional to min(size, cap)^(1 / T).

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", section 3.5.2 (temperature-scaled examples-proportional mixing with an artificial data
set size limit).
"""

from __future__ import annotations

import numpy as np

from mtlcli.sampling.base import RandomSampling


class Temperature(RandomSampling):
    """Policy between proportional (T = 1) and uniform (T large) sampling."""

    @property
    def probabilities(self) -> np.ndarray:
        """Probability of each task: (K,)."""
        sizes = np.array([self.sizes[name].examples for name in self.names], dtype=np.float64)
        if self.config.cap is not None:
            sizes = np.minimum(sizes, self.config.cap)
        # Sizes are divided by the largest first, so that no power overflows.
        rates = (sizes / sizes.max()) ** (1 / self.config.temperature)
        return rates / rates.sum()
