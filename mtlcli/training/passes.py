"""The forward and backward passes of a step.

Each pass ends before the next begins, so one set of activations is in memory at a time. Autograd
adds the gradients of passes up in `.grad`, unless gradient rows keep those of each task apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from mtlcli.data.batches import Batch, moved
from mtlcli.data.pack import Packing, budget
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.multitask import MultiTaskModel, TaskOutput
from mtlcli.training.engine import choose_engine
from mtlcli.training.gradient_rows import GradientRows
from mtlcli.training.task_batch import Batches, TaskBatch
from mtlcli.training.trained_parameters import TrainedParameters


class TaskMicroBatch(NamedTuple):
    """A micro-batch, or a part of one, with the name of its task."""

    task: str
    batch: Batch


Pass = list[TaskMicroBatch]
"""What goes through the trunk at once: one micro-batch of one task, or a mixed batch, which has one
part for each of several tasks."""
PassGroup = list[Pass]
"""Passes whose gradients autograd adds up: those of one task, or all mixed batches of a step."""


def passes_by_task(batches: Batches) -> list[PassGroup]:
    """Return a group of passes for each task, with one pass for each micro-batch."""
    return [
        [[TaskMicroBatch(name, micro)] for micro in batch.micro] for name, batch in batches.items()
    ]


def padded_tokens(groups: Sequence[PassGroup], packing: Packing | None = None) -> int:
    """Return the number of tokens that passes put through the trunk, with padding or what else
    nobody reads. `packing`: how batches are packed, if they are."""
    passes = [[part.batch for part in one_pass] for group in groups for one_pass in group]
    if packing is None:
        return sum(batch.input_ids.numel() for batches in passes for batch in batches)
    return sum(budget(sum(int(batch.lengths.sum()) for batch in each)) for each in passes)


class EmbeddingGradients:
    """The gradients of word embeddings: a backward pass leaves them sparse, since they differ from
    zero only for the tokens of the batch, and the update takes them dense.

    They are added up group by group, in the same order as gradient rows would be.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = parameters
        self._dense: dict[Parameter, Tensor] = {}
        self._free: list[Tensor] = []
        """The memory of the last step's gradients. The system clears new memory page by page, which
        takes a CPU longer than to fill the old one with zeros."""
        self._indices: dict[Parameter, list[Tensor]] = {}
        self.touched: dict[Parameter, Tensor] = {}
        """The indices of the embeddings whose gradient is not 0 on this rank."""

    def begin(self) -> None:
        """Begin with gradients of zero. `.grad` of all parameters is empty."""
        if self._dense:
            self._free = list(self._dense.values())
        self._dense, self._indices = {}, {}

    def add_from_grad(self) -> None:
        """Move the sparse gradients from the parameters' `.grad` into the sum."""
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                sparse, parameter.grad = parameter.grad.coalesce(), None
                indices = sparse.indices()[0]
                if parameter not in self._dense:
                    self._dense[parameter] = self._zeros(parameter)
                self._dense[parameter].index_add_(0, indices, sparse.values())
                self._indices.setdefault(parameter, []).append(indices)

    def _zeros(self, parameter: Parameter) -> Tensor:
        """Return zeros in the shape of a parameter."""
        for place, memory in enumerate(self._free):
            if memory.shape == parameter.shape and memory.dtype == parameter.dtype:
                return self._free.pop(place).zero_()
        return torch.zeros_like(parameter)

    def write_to_grad(self) -> None:
        """Write the sums into the parameters' `.grad`."""
        for parameter, gradient in self._dense.items():
            parameter.grad = gradient
        self.touched = {parameter: torch.cat(ids) for parameter, ids in self._indices.items()}


class Passes:
    """The passes of a model's tasks on this rank. One object serves a stage of the run, because the
    shared parameters depend on the tasks that the stage trains."""

    def __init__(
        self, model: MultiTaskModel, tasks: Collection[str], ranks: Ranks, *, bf16: bool
    ) -> None:
        """`tasks`: the tasks that are trained."""
        self.model, self.ranks, self._bf16 = model, ranks, bf16
        self.parameters = TrainedParameters(model, tasks)
        self._engine = choose_engine(self.parameters, ranks)
        self._way: tuple[object, ...] = ()
        self._embeddings = EmbeddingGradients(self.parameters.all)
        self.packs: Callable[[Batches], PassGroup] | None = None
        """How micro-batches of several tasks become packed batches whose gradient rows are told
        apart; None where they cannot be."""

    def run(
        self,
        batches: Batches,
        groups: Sequence[PassGroup],
        scales: Mapping[str, Any] | None = None,
        rows: GradientRows | None = None,
        *,
        summed: bool = False,
    ) -> Tensor:
        """Run passes one after the other: forward and, where gradients are recorded, backward.
        Return the mean losses (K,) over all ranks.

        `scales`: factors of the losses, numbers or scalar tensors; None: 1 for each. `rows`:
        receives the shared gradients, a row for each group, or for each part of a mixed batch.
        `summed`: let the last backward pass sum gradients over ranks, as far as the engine can;
        `sum_gradients` sums the others.
        """
        losses = torch.zeros(len(batches), device=self.ranks.device)
        places = {name: index for index, name in enumerate(batches)}
        left = sum(len(group) for group in groups)
        if torch.is_grad_enabled():
            self._way = (*batches, rows is None)
            self._engine.begin(summed=summed)
        if summed and not left:
            self._pass([], scales, last=True)
        self._embeddings.begin()
        for group in groups:
            for one_pass in group:
                left -= 1
                if rows is not None and len(one_pass) > 1:
                    found = self._recorded_pass(one_pass, scales, rows)
                else:
                    found = self._pass(one_pass, scales, last=summed and not left)
                for part, loss in zip(one_pass, found, strict=True):
                    losses[places[part.task]] += loss
            if rows is not None and all(len(one_pass) == 1 for one_pass in group):
                rows.append_from_grad()
            self._embeddings.add_from_grad()
        self._embeddings.write_to_grad()
        return self.ranks.all_reduce(losses)

    def _pass(
        self, one_pass: Pass, scales: Mapping[str, Any] | None, *, last: bool
    ) -> list[Tensor]:
        """Run one pass. Return the losses of its parts, detached and without their factors."""
        device = self.ranks.device
        moved_batches = moved([batch for _, batch in one_pass], device)
        parts = [(part.task, batch) for part, batch in zip(one_pass, moved_batches, strict=True)]
        outputs: list[TaskOutput] = []

        def forward() -> Tensor:
            if not parts:
                return torch.zeros((), device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
                outputs.extend(
                    [self.model(*parts[0])] if len(parts) == 1 else self.model.together(parts)
                )
                return torch.stack(
                    [
                        (1.0 if scales is None else scales[name]) * output.loss
                        for (name, _), output in zip(parts, outputs, strict=True)
                    ]
                ).sum()

        self._engine.backward(forward, last=last)
        return [output.loss.detach() for output in outputs]

    def _recorded_pass(
        self, one_pass: Pass, scales: Mapping[str, Any] | None, rows: GradientRows
    ) -> list[Tensor]:
        """Run a pass over a packed batch of several tasks, and append a row for each of them."""
        assert self.model.recorder is not None
        tokens = [int(part.batch.lengths.sum()) for part in one_pass]
        # The tokens that fill the budget belong to the last part.
        tokens[-1] += budget(sum(tokens)) - sum(tokens)
        inputs = [len(part.batch) for part in one_pass]
        with self.model.recorder.recording(tokens, inputs) as recorded:
            found = self._pass(one_pass, scales, last=False)
        for row in recorded:
            for parameter, gradient in row.items():
                parameter.grad = gradient
            rows.append_from_grad()
        return found

    def for_rows(self, batches: Batches) -> list[PassGroup]:
        """Return the passes from which gradient rows are taken, in the order of the tasks: packed
        batches of several tasks where the model can tell their gradients apart, else those of
        `passes_by_task`."""
        if self.packs is None or any(len(batch.micro) != 1 for batch in batches.values()):
            return passes_by_task(batches)
        return [[one_pass] for one_pass in self.packs(batches)]

    def sum_gradients(self, *, shared: bool = True) -> None:
        """Sum over all ranks the gradients in `.grad` that `run` has not summed. `shared`: those of
        the shared parameters as well."""
        done = () if shared else self.parameters.shared
        self._engine.sum_rest(self._way, self._embeddings.touched, done)

    def clear_gradients(self) -> None:
        """Empty `.grad` of all parameters."""
        for parameter in self.parameters.all:
            parameter.grad = None

    def losses(self, batches: Batches) -> dict[str, float]:
        """Return the mean losses of batches with the present parameters, over all ranks."""
        with torch.no_grad():
            losses = self.run(batches, passes_by_task(batches))
        return dict(zip(batches, losses.tolist(), strict=True))

    def shared_gradient(self, task: str, batch: TaskBatch) -> list[Tensor]:
        """Return the gradient of one task's mean loss with respect to each shared parameter, over
        all ranks. `.grad` is empty afterwards."""
        self.clear_gradients()
        self.run({task: batch}, passes_by_task({task: batch}))
        gradient = []
        for parameter in self.parameters.shared:
            part = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            gradient.append(self.ranks.all_reduce(part))
        self.clear_gradients()
        return gradient
