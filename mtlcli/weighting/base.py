"""Loss weighting: K task losses -> K weights.

A method is pure mathematics: it sees names and numbers, never models, loops or ranks. The gradient of the step is
sum_t weights[t] * dL_t; parameters of the method itself are learned from `objective`, which the step evaluates with the
detached losses of all ranks, so that every rank takes the same update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class WeightedTask:
    """What a method knows of a task."""

    weight: float
    """The user's importance, `tasks.NAME.weight`."""
    loss_kind: str
    """`classification` (negative log likelihood) or `regression` (squared error)."""


class LossWeighting(ABC):
    """Base class of the methods that weight losses."""

    def __init__(self, config: Any, tasks: dict[str, WeightedTask]) -> None:
        self.config = config
        self.tasks = tasks

    @abstractmethod
    def weights(self, present: list[str]) -> dict[str, float]:
        """The weight of the loss of each task that takes part in the step, importance included."""

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the method learns by gradient descent; the optimiser updates it at `config.lr`."""
        return []

    def objective(self, losses: dict[str, Tensor]) -> Tensor:
        """The scalar that `parameters` minimise, given the detached mean losses of the step's tasks. Only called when there are any."""
        raise TypeError(f"{type(self).__name__} learns nothing by gradient descent")

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as JSON values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, found {sorted(state)}")
