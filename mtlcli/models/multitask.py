"""The model of a run: a trunk that a sharing strategy built, and a head for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from mtlcli.data.batches import Batch, join
from mtlcli.data.pack import PackedBatch, Packing, PlacedBatch, pack, places_of
from mtlcli.errors import UserError, count_of
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, running
from mtlcli.models.inference import Inference
from mtlcli.models.per_task import PerTask, TaskModules
from mtlcli.tasks.base import Encoded, TaskType


@dataclass(frozen=True)
class ParameterInfo:
    """What the program has to know about a parameter."""

    users: tuple[str, ...]
    """The tasks whose loss depends on it: one for a private parameter, more for a shared one."""
    depth: int
    """How far it lies below the heads: 0 for heads and what stands on top of the layers, 1 for the
    last layer, the number of layers for the first, one more for the embeddings."""
    lr: float | None = None
    """A peak learning rate of its own. Such a rate follows the schedule and has no other factor,
    and the parameter has no weight decay."""


class ParameterTable(dict[nn.Parameter, ParameterInfo]):
    """What each parameter of a trunk is."""

    def change(self, parameters: Iterable[nn.Parameter], **fields: Any) -> None:
        """Change fields of the `ParameterInfo` of some parameters."""
        for parameter in parameters:
            self[parameter] = replace(self[parameter], **fields)


class Trunk(nn.Module):
    """The part of the model below the heads. Sharing strategies build one."""

    joint: bool = False
    """Whether `forward` also takes a mixed batch. It can where everything that differs between
    tasks acts on each input by itself."""

    packs: ClassVar[bool] = False
    """Whether `forward` also takes a packed batch, of one task or, if `joint`, of several. It can
    where all modules that the strategy has put into the network act on each token by itself."""

    first_token: bool = False
    """Whether the modules behind the backbone's last layer act on the state of each token by
    itself. Where heads read the first token alone, `mtlcli.fast` then computes no other there."""

    unmergeable: ClassVar[str] = (
        "what the strategy adds cannot be written into a backbone's weights"
    )
    """Why there is no backbone whose weights alone give the states of a task, as a clause, for
    strategies that are not `Merges`."""

    new_tasks: ClassVar[bool] = False
    """Whether a run that begins with the weights of another run of the strategy (`init.from`) may
    have other tasks than that run. It can where what a task has for itself is named after the
    task, and a new task can begin beside trained shared parts."""

    backbone: Backbone
    """The backbone that all tasks read, in the strategies that have one."""

    def __init__(self, owners: dict[str, str]) -> None:
        """`owners`: for every task its head owner, the task whose head it uses: itself, or the task
        from which it borrows a head."""
        super().__init__()
        self.owners = owners
        self.heads = list(dict.fromkeys(owners.values()))
        """The tasks that have a head of their own."""

    def forward(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors of a batch of `task`, or, if `joint`, of a mixed
        batch, which names its tasks."""
        passing = self.begin(task, batch)
        passing.layout = batch.layout if isinstance(batch, PackedBatch) else None
        with running(passing):
            return self.encode(task, batch)

    @classmethod
    def plain_backbones(cls, owners: Sequence[str]) -> dict[str, str]:
        """Return for each head the name of its submodule that is a backbone as the library has
        built it, where the trunk has nothing else: any other strategy can begin with its weights.
        Empty where the strategy adds something. `owners`: the tasks with a head. All begin with the
        same weights."""
        return {}

    def begin(self, task: str, batch: Batch) -> ForwardPass:
        """Return the pass of a batch, for the modules that the strategy has put into the
        network."""
        return ForwardPass(self.parts(task, batch), batch.attention_mask)

    def parts(self, task: str, batch: Batch) -> list[tuple[str, int]]:
        """Return the head owners of a batch's inputs, and the number of inputs of each, or of
        tokens in a packed batch."""
        return [(self.owners[name], count) for name, count in batch.parts or ((task, len(batch)),)]

    def encode(self, task: str, batch: Batch) -> Encoded:
        """Do the work of `forward`, within the batch's pass. Strategies with several backbones
        choose one here."""
        encoded: Encoded = self.backbone_of(task)(batch)
        return encoded

    def backbone_of(self, task: str) -> Backbone:
        """Return the backbone that a task reads."""
        return self.backbone

    def same_for(self, one: str, other: str) -> bool:
        """Return whether an input has the same states for two tasks. It has if one of them borrows
        the head of the other, or both borrow the same."""
        return self.owners[one] == self.owners[other]

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter of this module is. One that lies below a `PerTask` belongs to
        one task and its borrowers, any other to all tasks; one that lies in a backbone has its
        depth there. Strategies change the entries of parameters of other kinds."""
        info = ParameterInfo(tuple(self.owners), 0)
        table = ParameterTable((parameter, info) for parameter in self.parameters())
        for module in self.modules():
            if isinstance(module, Backbone):
                for parameter, depth in module.depths().items():
                    table.change([parameter], depth=depth)
            elif isinstance(module, PerTask):
                for owner, part in module.items():
                    table.change(part.parameters(), users=self.borrowers(owner))
        return table

    def borrowers(self, owner: str) -> tuple[str, ...]:
        """Return the tasks that use the head of `owner`, itself among them."""
        return tuple(task for task, other in self.owners.items() if other == owner)

    def measures(self) -> dict[str, Any]:
        """Return the strategy's statistics, for each metrics row and for results.json: JSON values
        by name."""
        return {}


class HasAuxiliaryLoss(ABC):
    """A trunk that adds a function of its parameters to the loss of each step."""

    @abstractmethod
    def penalty(self) -> Tensor | None:
        """Return the auxiliary loss of a step (for example the distance of soft sharing), or None.
        Called once a step."""


class HasBatchLoss(ABC):
    """A trunk that adds a function of each batch to the loss."""

    @abstractmethod
    def batch_loss(
        self, batch: Batch, encoded: Encoded, heads: TaskModules, tasks: dict[str, TaskType[Any]]
    ) -> Tensor | None:
        """Return the auxiliary loss of a batch, summed over the batch's inputs (scalar, fp32), or
        None.

        `encoded`: the result of `forward` for the batch.
        """


class Staged(ABC):
    """A trunk that changes from one stage of the run to the next."""

    @abstractmethod
    def enter(self, stage: int, *, anew: bool) -> None:
        """Enter a stage of the run (numbered from 0). `anew`: the stage begins; otherwise a resumed
        run goes on in it."""


class ObservesSteps(ABC):
    """A trunk whose statistics are those of training steps."""

    @abstractmethod
    def training_passes(self) -> AbstractContextManager[None]:
        """Return a context that encloses the passes of a training step. Other passes (probes,
        evaluation) happen outside."""


class CannotMerge(ValueError):
    """Why the weights of a backbone alone do not give the states of a task: a sentence."""


class Merges(ABC):
    """A trunk in which a backbone as the library has built it gives the states of a task: it has
    added nothing for the task, or can write what it has added into the backbone's own weights."""

    @abstractmethod
    def merged(self, task: str) -> Backbone:
        """Return a backbone as the library has built it, whose weights alone give the states of a
        task: a part of this trunk if it is one already, else a copy. Raises CannotMerge where the
        trunk's options make that impossible for the task."""


class DrawsOnceAStep(ABC):
    """A trunk that draws random numbers which hold for a whole step, on all ranks and in all
    micro-batches."""

    @abstractmethod
    def draw(self, seed: int) -> None:
        """Draw the numbers of a step from `seed`, which is the same on all ranks."""


@dataclass
class TaskOutput:
    """The result of a forward pass of one task."""

    loss: Tensor
    """Loss summed over the batch's items and divided by `batch.denominator`, plus the trunk's
    `batch_loss` divided by `batch.examples`: scalar, fp32."""
    outputs: dict[str, Tensor]
    """The outputs of the head, for example logits (batch, classes)."""


GradientRow = dict[nn.Parameter, Tensor]
"""The gradients of one task."""


class RowRecorder(Protocol):
    """What can tell the gradients of the parts of a packed batch apart."""

    def recording(
        self, tokens: Sequence[int], inputs: Sequence[int]
    ) -> AbstractContextManager[list[GradientRow]]:
        """Return a context with a list, which a backward pass fills with the gradients that each
        part gives the shared parameters. `tokens`, `inputs`: their numbers in each part."""


class TrainingOutput(Protocol):
    """What stands in the place of a task's forward pass in training (`mtlcli.augmentation`)."""

    def acts_on(self, task: str) -> bool:
        """Return whether it stands in the place of the passes of a task."""
        ...

    def begin_step(self, step: int, steps: int) -> None:
        """Note that step `step` of `steps`, counted from 0, begins."""
        ...

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        """Return loss and outputs of a batch of `task`."""
        ...

    def penalty(self, model: MultiTaskModel) -> Tensor | None:
        """Return a loss that is added once a step, or None."""
        ...


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
        pooling: str,
    ) -> None:
        """`depth`: number of layers of the backbone. `hidden`: width of its states. `pooling`: how
        the states of an input become one vector."""
        super().__init__()
        self.depth, self.hidden, self.pooling = depth, hidden, pooling
        self.trunk = trunk
        self.heads = TaskModules(heads)
        self.tasks = tasks
        self.parameter_infos = self._describe()
        """What each parameter is, by name."""
        self.packing: Packing | None = None
        """How batches are packed; None: they go through the trunk padded, as they are given."""
        self.recorder: RowRecorder | None = None
        """What gives the gradient rows of several tasks in one pass; None: each needs its own."""
        self.augmentation: TrainingOutput | None = None
        """What augments training; None: nothing does."""

    def _describe(self) -> dict[str, ParameterInfo]:
        table = self.trunk.parameter_table()
        for owner, head in self.heads.items():
            users = self.trunk.borrowers(owner)
            table.update(dict.fromkeys(head.parameters(), ParameterInfo(users, 0)))
        for module in self.trunk.modules():
            answers = [module.language_head, module.decoder] if isinstance(module, Backbone) else []
            for parameter in (each for part in answers if part for each in part.parameters()):
                users = tuple(
                    task for task in table[parameter].users if self.tasks[task].answers_in_text
                )
                if users:
                    table.change([parameter], users=users)
                else:  # The copy of a task that has a head.
                    parameter.requires_grad = False
        return {name: table[parameter] for name, parameter in self.named_parameters()}

    def owner(self, task: str) -> str:
        """Return the task whose head `task` uses."""
        return self.trunk.owners[task]

    def outputs(self, task: str, batch: Batch) -> dict[str, Tensor]:
        """Return what the predictions of `task` are made from, for a batch, without a loss."""
        head = self.heads[self.owner(task)]
        return self.tasks[task].infer(head, Inference(self, task), batch)

    def outputs_together(self, batches: Mapping[str, Batch]) -> dict[str, dict[str, Tensor]]:
        """Return what the predictions of some tasks are made from, by task, for a batch of each.
        Those of several tasks hold the same tokens, and the tasks fulfil `one_pass`: the trunk
        encodes the tokens once."""
        (first, batch), *others = batches.items()
        if not others:
            return {first: self.outputs(first, batch)}
        encoded = self.encoded(first, batch)
        return {
            name: self.tasks[name].predict(self.heads[self.owner(name)], encoded, each)
            for name, each in batches.items()
        }

    def one_pass(self, one: str, other: str) -> bool:
        """Return whether the same tokens have the same states for two tasks, and both tasks
        predict from these states alone, so that one pass of the trunk serves both."""
        first, second = self.tasks[one], self.tasks[other]
        plain = all(
            type(task).infer is TaskType.infer and type(task).drawn is TaskType.drawn
            for task in (first, second)
        )
        return (
            plain and first.reads_tokens == second.reads_tokens and self.trunk.same_for(one, other)
        )

    def forward(self, task: str, batch: Batch) -> TaskOutput:
        """Return loss and outputs of a batch of `task`."""
        if self.training and self.augmentation is not None and self.augmentation.acts_on(task):
            return self.augmentation.output(self, task, batch)
        return self.output(task, batch, self.encoded(task, batch))

    def together(self, batches: Sequence[tuple[str, Batch]]) -> list[TaskOutput]:
        """Return loss and outputs of batches whose inputs go through the trunk as one mixed batch:
        packed, or else of the same width. The trunk must be `joint`."""
        if self.packing is not None:
            encoded = self._encoded_packed(batches, self.packing)
        else:
            mixed: Encoded = self.trunk(batches[0][0], join(batches))
            counts = [len(batch) for _, batch in batches]
            pieces = zip(
                mixed.hidden.split(counts),
                mixed.pooled.split(counts),
                mixed.mask.split(counts),
                strict=True,
            )
            encoded = [Encoded(*piece, mixed.language, mixed.decoder) for piece in pieces]
        return [
            self.output(task, batch, each)
            for (task, batch), each in zip(batches, encoded, strict=True)
        ]

    def encoded(self, task: str, batch: Batch) -> Encoded:
        """Return the trunk's encoding of a batch of `task`."""
        if self.packing is not None:
            return self._encoded_packed([(task, batch)], self.packing)[0]
        encoded: Encoded = self.trunk(task, batch)
        return encoded

    def _encoded_packed(
        self, batches: Sequence[tuple[str, Batch]], packing: Packing
    ) -> list[Encoded]:
        """Return the trunk's encodings of padded batches, which it computes as one packed batch."""
        first = batches[0][1]
        if isinstance(first, PlacedBatch):
            packed = first.packed
            places = [each.places for _, each in batches if isinstance(each, PlacedBatch)]
        else:
            packed = pack(batches, packing)
            places = list(places_of(batches, packed))
        encoded: Encoded = self.trunk(batches[0][0], packed)
        return [
            Encoded(
                place.pad(encoded.hidden)
                if self.tasks[task].reads_tokens
                else encoded.hidden[:, place.tokens],
                encoded.pooled[place.rows],
                batch.attention_mask,
                encoded.language,
                encoded.decoder,
            )
            for (task, batch), place in zip(batches, places, strict=True)
        ]

    def output(self, task: str, batch: Batch, encoded: Encoded) -> TaskOutput:
        """Return loss and outputs of a batch of `task` that the trunk has encoded."""
        outputs = self.head_outputs(task, batch, encoded)
        loss = self.tasks[task].loss(outputs, batch)
        return TaskOutput(self.with_batch_loss(loss / batch.denominator, batch, encoded), outputs)

    def head_outputs(self, task: str, batch: Batch, encoded: Encoded) -> dict[str, Tensor]:
        """Return what the head of `task` gives for an encoding of a batch."""
        return self.tasks[task].outputs(self.heads[self.owner(task)], encoded, batch)

    def with_batch_loss(self, loss: Tensor, batch: Batch, encoded: Encoded) -> Tensor:
        """Return the normalised loss of a batch with what the trunk adds to it (`HasBatchLoss`)."""
        more = (
            self.trunk.batch_loss(batch, encoded, self.heads, self.tasks)
            if isinstance(self.trunk, HasBatchLoss)
            else None
        )
        return loss if more is None else loss + more / batch.examples

    def penalty(self) -> Tensor | None:
        """Return the auxiliary loss that the trunk and the augmentation add once a step, or
        None."""
        found = self.trunk.penalty() if isinstance(self.trunk, HasAuxiliaryLoss) else None
        more = None if self.augmentation is None else self.augmentation.penalty(self)
        return more if found is None else found if more is None else found + more

    def enter(self, stage: int, *, anew: bool) -> None:
        """Enter a stage of the run (see `Staged`)."""
        if isinstance(self.trunk, Staged):
            self.trunk.enter(stage, anew=anew)

    def draw(self, seed: int) -> None:
        """Draw the random numbers of a step (see `DrawsOnceAStep`)."""
        if isinstance(self.trunk, DrawsOnceAStep):
            self.trunk.draw(seed)

    def training_passes(self) -> AbstractContextManager[None]:
        """Return a context that encloses the passes of a training step."""
        trunk = self.trunk
        return trunk.training_passes() if isinstance(trunk, ObservesSteps) else nullcontext()

    def users(self) -> dict[str, tuple[str, ...]]:
        """Return for every parameter, by name, the tasks whose loss depends on it."""
        return {name: info.users for name, info in self.parameter_infos.items()}

    def last_layers(self, names: Sequence[str], count: int) -> list[int]:
        """Return the positions in `names`, the names of parameters, of those in the last `count`
        layers that any of them lies in.

        Raises UserError when there are fewer such layers.
        """
        depths = [self.parameter_infos[name].depth for name in names]
        inside = [depth for depth in depths if 0 < depth <= self.depth]
        highest = min(inside, default=self.depth + 1)
        layers = self.depth + 1 - highest
        if count > layers:
            raise UserError(
                f"the backbone has {count_of(layers, 'layer')}",
                where="weighting.last_layers",
                fix=f"type {layers} or less, or null",
            )
        return [
            position
            for position, depth in enumerate(depths)
            if highest <= depth < highest + count and depth <= self.depth
        ]

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
