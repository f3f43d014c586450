"""Adam (Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization") on one number for each
task.

It serves the methods whose numbers are not learned through a loss of the run, and so are no
parameters of the run's optimiser:

    g <- g + weight_decay x                                   (L2, as in torch.optim.Adam)
    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
    x <- x - lr (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps)

torch.optim.Adam gives the same numbers. Here the state is JSON by task name, and the moments of
absent tasks do not change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

BETAS = (0.9, 0.999)
EPS = 1e-8


class Adam:
    """Adam's moments of one number for each task."""

    def __init__(self, names: Iterable[str], lr: float, weight_decay: float = 0.0) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self._moments: dict[str, tuple[int, float, float]] = dict.fromkeys(names, (0, 0.0, 0.0))

    def step(self, values: dict[str, float], gradient: dict[str, float]) -> None:
        """Update, in place, those of `values` that have a gradient."""
        for name, slope in gradient.items():
            count, first, second = self._moments[name]
            slope += self.weight_decay * values[name]
            count += 1
            first = BETAS[0] * first + (1 - BETAS[0]) * slope
            second = BETAS[1] * second + (1 - BETAS[1]) * slope * slope
            rate = self.lr / (1 - BETAS[0] ** count)
            values[name] -= rate * first / (math.sqrt(second / (1 - BETAS[1] ** count)) + EPS)
            self._moments[name] = count, first, second

    def state_dict(self) -> dict[str, Any]:
        """Return for each task the number of its updates and its first and second moment, as JSON
        values."""
        return {name: list(moments) for name, moments in self._moments.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._moments = {
            name: (int(count), float(first), float(second))
            for name, (count, first, second) in state.items()
        }
