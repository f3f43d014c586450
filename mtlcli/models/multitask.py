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
    """The part of the model below the heads. Sharing strategies build one."""

    joint: ClassVar[bool] = False
    """Whether `forward` also takes a mixed batch. It can where everything that differs between
    tasks acts on each input by itself."""

    first_token: bool = False
    """Whether `forward` heeds `Batch.tokens`. It can where the modules behind the backbone's last
    layer act on the state of each token by itself."""

    def __init__(self, owners: dict[str, str]) -> None:
        """`owners`: for every task its head owner, the task whose head it uses: itself, or the task
        from which it borrows a head."""
        super().__init__()
        self.owners = owners
        self.heads = list(dict.fromkeys(owners.values()))
        """The tasks that have a head of their own."""

    @abstractmethod
    def forward(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors of a batch of `task`, or, if `joint`, of a mixed
        batch, which names its tasks."""

    def owned(self, task: str, batch: Batch) -> list[tuple[str, int]]:
        """Return the head owners of a batch's inputs, and the number of inputs of each."""
        return [(self.owners[name], count) for name, count in batch.parts or ((task, len(batch)),)]

    def users(self, parameter: str) -> tuple[str, ...]:
        """Return the tasks whose loss depends on a parameter of this module, given by name: one
        task and its borrowers if the parameter lies below a `PerTask`, else all tasks."""
        module: nn.Module = self
        path = parameter.split(".")
        for part, following in zip(path, path[1:], strict=False):
            module = getattr(module, part)
            if isinstance(module, PerTask):
                return self.borrowers(task_of(following))
        return tuple(self.owners)

    def borrowers(self, owner: str) -> tuple[str, ...]:
        """Return the tasks that use the head of `owner`, itself among them."""
        return tuple(task for task, other in self.owners.items() if other == owner)

    def penalty(self) -> Tensor | None:
        """Return the auxiliary loss of a step (for example the distance of soft sharing), or
        None."""
        return None

    @contextmanager
    def training_passes(self) -> Iterator[None]:
        """Enclose the passes of a training step. Other passes (probes, evaluation) happen outside,
        so that `measures` can report statistics of steps alone."""
        yield

    def learning_rates(self) -> dict[str, float]:
        """Return the peak learning rates, by name, of the parameters that have one of their own.
        Such a rate follows the schedule and has no other factor; these parameters have no weight
        decay."""
        return {}

    def enter(self, stage: int, *, anew: bool) -> None:
        """Enter a stage of the run (numbered from 0). `anew`: the stage begins; otherwise a resumed
        run goes on in it. Most strategies have one stage."""

    def term(
        self, batch: Batch, encoded: Encoded, heads: TaskModules, tasks: dict[str, TaskType[Any]]
    ) -> Tensor | None:
        """Return the auxiliary loss of a batch, summed over the batch's inputs (scalar, fp32), or
        None.

        `encoded`: the result of `forward` for the batch.
        """
        return None

    def measures(self) -> dict[str, Any]:
        """Return the strategy's statistics, for each metrics row and for results.json: JSON values
        by name."""
        return {}


@dataclass
class TaskOutput:
    """The result of a forward pass of one task."""

    loss: Tensor
    """Loss summed over the batch's items and divided by `batch.denominator`, plus the trunk's
    `term` divided by `batch.examples`: scalar, fp32."""
    outputs: dict[str, Tensor]
    """The outputs of the head, for example logits (batch, classes)."""


class MultiTaskModel(nn.Module):
    """Trunk and heads. `owner` gives the head owner of a task: the task itself, or another one."""

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
        """Return the task whose head `task` uses."""
        return self.trunk.owners[task]

    def outputs(self, task: str, batch: Batch) -> dict[str, Tensor]:
        """Return the outputs of the head of `task` for a batch, without a loss."""
        return self.heads[self.owner(task)](self._encoded(task, batch))

    def forward(self, task: str, batch: Batch) -> TaskOutput:
        """Return loss and outputs of a batch of `task`."""
        return self._output(task, batch, self._encoded(task, batch))

    def together(self, batches: Sequence[tuple[str, Batch]]) -> list[TaskOutput]:
        """Return loss and outputs of batches of the same width, whose inputs go through the trunk
        as one mixed batch. The trunk must be `joint`."""
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
        """Return the trunk's encoding of a batch of `task`, or of a mixed batch."""
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
        """Return for every parameter, by name, how far down it lies: 0 for heads and what stands on
        top of the layers, 1 for the last layer, `depth` for the first, `depth` + 1 for the
        embeddings."""
        # What follows `.network.` is the name in the transformers network. Names of tasks stand
        # before it, and modules that a strategy puts beside the network lie above the layers.
        inside = {name: name.partition(".network.")[2] for name, _ in self.named_parameters()}
        return {name: height_of(rest, self.depth) if rest else 0 for name, rest in inside.items()}

    def users(self) -> dict[str, tuple[str, ...]]:
        """Return for every parameter, by name, the tasks whose loss depends on it: one for a
        private parameter, more for a shared one."""
        partition: dict[str, tuple[str, ...]] = {}
        for name, _ in self.named_parameters():
            part, _, rest = name.partition(".")
            if part == "trunk":
                partition[name] = self.trunk.users(rest)
            else:
                partition[name] = self.trunk.borrowers(task_of(rest.partition(".")[0]))
        return partition

    def parameter_counts(self) -> dict[str, Any]:
        """Return the numbers of parameters: total, shared by several tasks, and private to each
        task."""
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
