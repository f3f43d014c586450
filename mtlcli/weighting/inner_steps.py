"""The base classes of methods that learn parameters from which few steps on one task lead far:
first-order meta-learning.

The batch of a task in a step is cut into inner batches. A copy of the parameters takes a step of
plain gradient descent on each of them, and what it comes to gives the task's gradient in the update
of the parameters themselves. So a step reads as many rows as a step of joint training, in as many
passes as micro-batches of the same size.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig
from mtlcli.weighting.base import Step, Weighting


@section
class InnerStepsWeighting(WeightingConfig):
    """The base class of the configurations of these methods."""

    on_gradients: ClassVar[bool] = True
    """The gradient of each task is one of its own."""
    inner_steps: Annotated[int, Ge(1), Le(100)] = 4
    """Steps of the copy on a task, each on a part of the task's batch; a batch with fewer examples
    has fewer."""
    inner_lr: Annotated[float, Gt(0), Le(1000)] = 0.01
    """Learning rate of these steps, which are plain gradient descent."""

    @property
    def inner_batches(self) -> int:
        """The inner steps, each on a part."""
        return self.inner_steps


class InnerSteps(Weighting):
    """Base class of these methods. The sum of the tasks' gradients, each times the task's
    importance, is the gradient of the step, for every parameter."""

    looks_ahead: ClassVar[bool]
    """Whether the gradient of a task is that of its last inner batch where the copy has come to;
    otherwise it is the way of the copy, divided by `inner_lr`."""

    @classmethod
    def needs_one_gradient(cls) -> bool:
        """Return False, as each task has inner steps."""
        return False

    def weights(self, step: Step) -> dict[str, float]:
        """Return the importance of each task."""
        return {name: self.tasks[name].weight for name in step.tasks}
