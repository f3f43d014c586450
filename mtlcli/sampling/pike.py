"""PiKE, positive gradient interaction-based K-task weights estimator (Li, Deng, Zhong, Razaviyayn &
Mirrokni 2025, "PiKE: Adaptive Data Mixing for Large-Scale Multi-Task Learning Under Low Gradient
Conflicts").

Where the tasks' gradients hardly conflict, the loss that a step removes is bounded from below by
what the squared gradients of the tasks in it give, less what the noise of their examples costs.
Shares follow that bound by exponentiated gradient steps. Every `every` steps, with the squared norm
of a task's gradient |g_t|^2, the variance of the gradient of one example s_t^2 and b_t examples of
the task in a step,

    w_t <- w_t exp(zeta_gain |g_t|^2 - zeta_noise s_t^2 / (2 b_t)),  scaled to a sum of 1
    p_t = floor / K + (1 - floor) w_t

w_t is 1 / K at first. Both numbers are estimated without bias from the gradients of `batches`
training batches of each task: |g|^2 from the inner products of different batches, s^2 / b as the
variance of a batch's gradient. The gradients are those of the parameters that tasks share, without
dropout and over all devices.

The algorithm is written down from memory of the paper, since neither its text nor code of the
authors was at hand.

Differences: the paper cuts one batch into b w_t examples of each task, here each step draws a task
with probability p_t. `floor` keeps every task in training; the paper has none (floor 0). The step
sizes depend on the scale of the gradients and have to be tuned, as in the paper; the defaults are
ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import GradientNoise, RandomSampling

if TYPE_CHECKING:
    import numpy as np

LEAST = 1e-6
"""The smallest w. A share of 0 could never rise again."""


@samplings.register("pike", "Pike")
@section
class PikeSampling(SamplingConfig):
    """One task per step, more often the larger its gradient and the smaller its gradient's noise
    (PiKE, Li et al. 2025).

    When it helps: large mixtures whose gradients hardly conflict, as in pretraining.

    Cost: the gradients of `batches` batches of each task at each measurement.
    """

    needs_gradients: ClassVar[bool] = True
    """Gradients of shared parameters are measured."""
    name: Literal["pike"] = "pike"
    """Policy."""
    every: Annotated[int, Gt(0)] = 100
    """Number of steps between two measurements of the gradients; the paper's T."""
    batches: Annotated[int, Ge(2), Le(1000)] = 4
    """Number of batches of each task that a measurement takes."""
    zeta_gain: Annotated[float, Ge(0)] = 0.01
    """How strongly squared gradients raise a task's share; the paper's first zeta."""
    zeta_noise: Annotated[float, Ge(0)] = 0.01
    """How strongly noise lowers a task's share; the paper's second zeta."""
    floor: Annotated[float, Ge(0), Le(1)] = 0.1
    """The part of all steps that is shared out equally, whatever the gradients."""


class Pike(RandomSampling):
    """Policy that follows the size and the noise of the tasks' gradients."""

    def __init__(self, config: Any, sizes: Any, seed: int) -> None:
        super().__init__(config, sizes, seed)
        self._weights = dict.fromkeys(self.names, 1 / len(self.names))

    def gradient_batches(self, step: int) -> int:
        """Return `batches` in every step in which gradients are measured."""
        return self.config.batches if step % self.config.every == 0 else 0

    def note_gradients(self, found: Mapping[str, GradientNoise]) -> None:
        """Move the weights by one exponentiated gradient step."""
        exponents = {
            name: self.config.zeta_gain * found[name].square
            - self.config.zeta_noise / 2 * found[name].variance
            for name in self.names
        }
        # The largest exponent is 0: only the ratios matter.
        largest = max(exponents.values())
        moved = {
            name: weight * math.exp(exponents[name] - largest)
            for name, weight in self._weights.items()
        }
        total = sum(moved.values())
        kept = {name: max(weight / total, LEAST) for name, weight in moved.items()}
        self._weights = {name: weight / sum(kept.values()) for name, weight in kept.items()}

    def probabilities(self, step: int) -> np.ndarray:
        """Return the probability of each task until the next measurement: (K,)."""
        import numpy as np

        weights = np.array([self._weights[name] for name in self.names])
        found: np.ndarray = self.config.floor / len(weights) + (1 - self.config.floor) * weights
        return found

    def statistics(self, step: int) -> dict[str, Any]:
        """Return the probability of each task."""
        return dict(zip(self.names, self.probabilities(step).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by task."""
        return {"weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the weights. Raises ValueError unless they are of the policy's tasks."""
        if list(state["weights"]) != self.names:
            raise ValueError(
                f"the weights are of {list(state['weights'])}, the run trains {self.names}"
            )
        self._weights = {name: float(weight) for name, weight in state["weights"].items()}
