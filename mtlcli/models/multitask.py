"""The model of a run: a trunk that a sharing strategy built, and a head for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from mtlcli.data.batches import Batch, join
from mtlcli.models.backbone import height_of
from mtlcli.models.layers import PerTask, TaskModules, task_of
from mtlcli.tasks.base import Encoded, TaskType


class Trunk(nn.Module, ABC):
    """What lies below the heads. Sharing strategies build one."""

    joint: ClassVar[bool] = False
    """Whether `forward` also takes a batch of several tasks: what differs between tasks acts on
    every input by itself."""

    first_token: bool = False
    """Whether `forward` minds `Batch.tokens`: what is put behind the backbone's last layer acts on
    the state of each token by itself."""

    def __init__(self, owners: dict[str, str]) -> None:
        """`owners`: for every task, the task whose head it uses: its own name, or that of the task
        from which it borrows one."""
        super().__init__()
        self.owners = owners
        self.heads = list(dict.fromkeys(owners.values()))
        """The tasks that have a head of their own."""

    @abstractmethod
    def forward(self, task: str, batch: Batch) -> Encoded:
        """Token states and pooled vectors of a batch of `task`, or, `joint`, of the tasks that the
        batch names."""

    def owned(self, task: str, batch: Batch) -> list[tuple[str, int]]:
        """The owners of a batch's inputs, and how many inputs each has."""
        return [(self.owners[name], count) for name, count in batch.parts or ((task, len(batch)),)]

    def users(self, parameter: str) -> tuple[str, ...]:
        """The tasks whose loss depends on a parameter of this module, by its name: one task and its
        borrowers if it lies below a `PerTask`, else all tasks."""
        module: nn.Module = self
        path = parameter.split(".")
        for part, following in zip(path, path[1:], strict=False):
            module = getattr(module, part)
            if isinstance(module, PerTask):
                return self.borrowers(task_of(following))
        return tuple(self.owners)

    def borrowers(self, owner: str) -> tuple[str, ...]:
        """The tasks that use the head of `owner`, itself among them."""
        return tuple(task for task, other in self.owners.items() if other == owner)

    def penalty(self) -> Tensor | None:
        """A term added to every step's loss (soft sharing's distance), or None."""
        return None

    @contextmanager
    def training_passes(self) -> Iterator[None]:
        """The passes of a training step happen inside of this; others (probes, evaluation) do not.
        For what `measures` tells of a step."""
        yield

    def learning_rates(self) -> dict[str, float]:
        """Peak learning rates of parameters, by name, that have one of their own: it follows the
        schedule, and no other factor; they have no weight decay."""
        return {}

    def enter(self, stage: int, *, anew: bool) -> None:
        """A stage of the run (numbered from 0) begins, or, not `anew`, a resumed run goes on in it.
        Most strategies have one stage."""

    def term(
        self, batch: Batch, encoded: Encoded, heads: TaskModules, tasks: dict[str, TaskType[Any]]
    ) -> Tensor | None:
        """A term that the loss of a batch has beside the task's own, summed over the batch's inputs
        (scalar, fp32), or None.

        `encoded`: what `forward` gave for the batch.
        """
        return None

    def measures(self) -> dict[str, Any]:
        """What the strategy tells in each row of metrics.jsonl and in results.json: JSON values by
        name."""
        return {}


@dataclass
class TaskOutput:
    """What a forward pass of one task gives."""

    loss: Tensor
    """Loss summed over the batch's items and divided by `batch.denominator`, and the trunk's term,
    divided by `batch.examples`: scalar, fp32."""
    outputs: dict[str, Tensor]
    """What the head gave, for example logits (batch, classes)."""


class MultiTaskModel(nn.Module):
    """Trunk and heads. `owner` says whose head a task uses: its own, or that of another task."""

    def __init__(
        self,
        trunk: Trunk,
        heads: dict[str, nn.Module],
        tasks: dict[str, TaskType[Any]],
        *,
        depth: int,
        hidden: int,
    ) -> None:
        """`depth`: number of layers of the backbone. `hidden`: width of its states."""
        super().__init__()
        self.depth, self.hidden = depth, hidden
        self.trunk = trunk
        self.heads = TaskModules(heads)
        self.tasks = tasks

    def owner(self, task: str) -> str:
        """The task whose head `task` uses."""
        return self.trunk.owners[task]

    def outputs(self, task: str, batch: Batch) -> dict[str, Tensor]:
        """What the head of `task` gives for a batch, without a loss."""
        return self.heads[self.owner(task)](self._encoded(task, batch))

    def forward(self, task: str, batch: Batch) -> TaskOutput:
        """Loss and outputs of a batch of `task`."""
        return self._output(task, batch, self._encoded(task, batch))

    def together(self, batches: Sequence[tuple[str, Batch]]) -> list[TaskOutput]:
        """Loss and outputs of batches of the same width, whose inputs go through the trunk, which
        must be `joint`, in one batch."""
        encoded = self._encoded(batches[0][0], join(batches))
        counts = [len(batch) for _, batch in batches]
        pieces = zip(
            encoded.hidden.split(counts),
            encoded.pooled.split(counts),
            encoded.mask.split(counts),
            strict=True,
        )
        return [
            self._output(task, batch, Encoded(*piece))
            for (task, batch), piece in zip(batches, pieces, strict=True)
        ]

    def _encoded(self, task: str, batch: Batch) -> Encoded:
        """What the trunk gives for a batch of `task`, or of the tasks that the batch names."""
        tokens = any(
            self.tasks[name].token_outputs for name, _ in batch.parts or ((task, len(batch)),)
        )
        encoded: Encoded = self.trunk(
            task, replace(batch, tokens=tokens or not self.trunk.first_token)
        )
        return encoded

    def _output(self, task: str, batch: Batch, encoded: Encoded) -> TaskOutput:
        outputs = self.heads[self.owner(task)](encoded)
        loss = self.tasks[task].loss(outputs, batch)
        term = self.trunk.term(batch, encoded, self.heads, self.tasks)
        loss = loss / batch.denominator
        return TaskOutput(loss if term is None else loss + term / batch.examples, outputs)

    def heights(self) -> dict[str, int]:
        """For every parameter, by name, how far down it lies: 0 heads and what stands on top of the
        layers, 1 the last layer, `depth` the first, `depth` + 1 the embeddings."""
        # Names of tasks stand before, and what a strategy puts beside the network lies above it.
        inside = {name: name.partition(".network.")[2] for name, _ in self.named_parameters()}
        return {name: height_of(rest, self.depth) if rest else 0 for name, rest in inside.items()}

    def users(self) -> dict[str, tuple[str, ...]]:
        """For every parameter, by name, the tasks whose loss depends on it: one for a private
        parameter, more for a shared one."""
        partition: dict[str, tuple[str, ...]] = {}
        for name, _ in self.named_parameters():
            part, _, rest = name.partition(".")
            if part == "trunk":
                partition[name] = self.trunk.users(rest)
            else:
                partition[name] = self.trunk.borrowers(task_of(rest.partition(".")[0]))
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
