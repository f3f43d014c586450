"""The model of a run: a trunk that a sharing strategy built, and a head for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.tasks.base import Encoded, TaskType


class Trunk(nn.Module, ABC):
    """What lies below the heads. Sharing strategies build one."""

    @abstractmethod
    def forward(self, task: str, batch: Batch) -> Encoded:
        """Token states and pooled vectors of a batch of `task`."""

    @abstractmethod
    def users(self, parameter: str) -> tuple[str, ...]:
        """The tasks whose loss depends on a parameter of this module, by its name."""

    def penalty(self) -> Tensor | None:
        """A term added to every step's loss (soft sharing's distance), or None."""
        return None


@dataclass
class TaskOutput:
    """What a forward pass of one task gives."""

    loss: Tensor
    """Loss summed over the batch's items, divided by `batch.denominator`: scalar, fp32."""
    outputs: dict[str, Tensor]
    """What the head gave, for example logits (batch, classes)."""


class MultiTaskModel(nn.Module):
    """Trunk and heads. `owner` says whose head a task uses: its own, or that of another task."""

    def __init__(self, trunk: Trunk, heads: dict[str, nn.Module], tasks: dict[str, TaskType[Any]]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)
        self.tasks = tasks

    def owner(self, task: str) -> str:
        """The task whose head `task` uses."""
        return self.tasks[task].config.head or task

    def outputs(self, task: str, batch: Batch) -> dict[str, Tensor]:
        """What the head of `task` gives for a batch, without a loss."""
        return self.heads[self.owner(task)](self.trunk(task, batch))

    def forward(self, task: str, batch: Batch) -> TaskOutput:
        """Loss and outputs of a batch of `task`."""
        outputs = self.outputs(task, batch)
        return TaskOutput(self.tasks[task].loss(outputs, batch) / batch.denominator, outputs)

    def users(self) -> dict[str, tuple[str, ...]]:
        """For every parameter, by name, the tasks whose loss depends on it: one for a private parameter, more for a shared one."""
        partition: dict[str, tuple[str, ...]] = {}
        for name, _ in self.named_parameters():
            part, _, rest = name.partition(".")
            if part == "trunk":
                partition[name] = self.trunk.users(rest)
            else:
                head = rest.partition(".")[0]
                partition[name] = tuple(task for task in self.tasks if self.owner(task) == head)
        return partition

    def parameter_counts(self) -> dict[str, Any]:
        """Numbers of parameters: total, shared by several tasks, and private to each task."""
        users = self.users()
        private = dict.fromkeys(self.tasks, 0)
        total = shared = 0
        for name, parameter in self.named_parameters():
            total += parameter.numel()
            if len(users[name]) == 1:
                private[users[name][0]] += parameter.numel()
            else:
                shared += parameter.numel()
        return {"total": total, "shared": shared, "per_task": private}
