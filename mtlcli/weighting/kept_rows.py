"""The base class of methods that keep numbers for each task and each shared parameter: K times the
memory of the shared parameters, on every device, and as much in each checkpoint.

They see the tasks' gradient rows of a step in blocks, one for each shared parameter, summed over
ranks. Every rank keeps the same numbers.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from mtlcli.weighting.base import Step, WeightedTask, Weighting

if TYPE_CHECKING:
    from torch import Tensor

Blocks = dict[str, "Tensor"]
"""Gradient rows of the plain losses by the name of the shared parameter: (K, n) fp32 each, on the
device, summed over ranks."""


class RowKeeping(Weighting):
    """Base class of these methods. A method absorbs the rows of a step, then gives the weights."""

    when = "rows"
    kept_name: str
    """What the numbers are, in the names of the saved tensors."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        super().__init__(config, tasks)
        self.kept: dict[str, dict[str, Tensor]] = {name: {} for name in tasks}
        """For each task, the numbers of each shared parameter by its name: (n,) fp32."""

    @abstractmethod
    def absorb(self, step: Step, blocks: Blocks) -> Blocks:
        """Let the method learn from a step whose losses and gradient rows are known and finite, and
        return the rows that the weights are for, in blocks of the same shapes. Called once a step,
        before `weights`."""

    @abstractmethod
    def private_weights(self, step: Step) -> dict[str, float]:
        """Return the factor of each task's loss, importance included, for the private parameters of
        the task. Called after `absorb`."""

    def balanced(self, step: Step) -> list[str]:
        """Return the step's tasks whose importance is above 0."""
        return [name for name in step.tasks if self.tasks[name].weight > 0]

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by `<what>/<task>/<parameter>`."""
        return {
            f"{self.kept_name}/{task}/{parameter}": values
            for task, parts in self.kept.items()
            for parameter, values in parts.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave. Raises ValueError when they are another method's, or of
        tasks that the run does not have."""
        self.kept = {name: {} for name in self.tasks}
        for key, values in tensors.items():
            what, task, parameter = key.split("/", 2)
            if what != self.kept_name or task not in self.tasks:
                raise ValueError(f"it has '{key}', which the run does not have")
            self.kept[task][parameter] = values
