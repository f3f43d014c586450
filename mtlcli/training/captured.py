"""Steps on a GPU that are recorded once for each of their shapes and then replayed.

The host needs some 40 us to launch a kernel, and a step of a small model has hundreds, which take a
few microseconds each. So the kernels of a whole step (passes, clip, update) are recorded as one
CUDA graph, which the host launches at once. Packed batches have few shapes (`data/pack.py`), so
there are few graphs.

A graph reads and writes at fixed places. All that differs between two steps of one shape is copied
there before the graph is replayed, in one copy: tokens, labels, the counts that normalise the
losses, and the weights of the tasks. Learning rates lie on the device as well
(`Optimizers.keep_rates_on`), and dropout reads the seed of the step there. The first step of a
shape is launched kernel by kernel, since libraries choose their kernels then and the optimiser
makes its moments; the second one is recorded. All give the same numbers to the bit.

torch's own `torch.cuda.make_graphed_callables` leaves out the update, and its other helper,
`torch.cuda.graph`, collects garbage and empties the memory pools before each recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlcli.data.batches import Batch, Memory
from mtlcli.data.pack import (
    FixedPlaces,
    Layout,
    PackedBatch,
    Packing,
    PlacedBatch,
    Places,
    Plan,
    plan_layout,
)
from mtlcli.models.multitask import DrawsOnceAStep, HasBatchLoss, ObservesSteps
from mtlcli.training.passes import Pass, TaskMicroBatch
from mtlcli.training.run import Run
from mtlcli.training.step import Backward, Outcome, WeightedSum
from mtlcli.training.task_batch import Batches, TaskBatch
from mtlcli.training.update import Deferred, Launched, Update, Updated
from mtlcli.weighting.base import Step

MOST = 256
"""The most shapes that are recorded; steps of further ones are launched kernel by kernel, which
gives the same numbers to the bit."""
TOKENS = 64
"""The multiple to which widths are rounded up for heads that read the states of all tokens."""

Shape = tuple[tuple[int, tuple[tuple[str, int, int], ...]], ...]
"""The shape of a step: for each pass, its tokens and, for each part, the task, the number of inputs
and the width that its head reads."""


class Recording(Protocol):
    """The recorded work of a step."""

    def replay(self) -> Launched:
        """Do the work again, and return its result: the same tensors each time."""


class Graph:
    """A recording as a CUDA graph."""

    _shared: ClassVar[dict[torch.device, tuple[Any, torch.cuda.Stream]]] = {}
    """For each device, the memory of all graphs and the stream on which they are recorded. No two
    of them run at the same time, and what one leaves behind is copied before the next one runs, so
    they can share it. torch gives a piece of memory to the stream alone that has had it before."""

    def __init__(self, work: Callable[[], Launched], device: torch.device) -> None:
        """Record `work`, which does nothing yet."""
        if device not in Graph._shared:
            Graph._shared[device] = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
        pool, stream = Graph._shared[device]
        self._graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            # Other threads, such as the one that writes checkpoints, may go on meanwhile.
            self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self._result = work()
            finally:
                self._graph.capture_end()
        current.wait_stream(stream)

    def replay(self) -> Launched:
        """Launch the graph."""
        self._graph.replay()
        return self._result


RECORDERS: dict[str, Callable[[Callable[[], Launched], torch.device], Recording]] = {"cuda": Graph}
"""What records work, by kind of device."""


@dataclass
class Fixed:
    """The inputs of all steps of one shape, at fixed places."""

    memory: Memory
    batches: Batches
    passes: list[Pass]
    weights: Tensor
    """(K,): the weights of the tasks' losses."""
    layouts: list[Layout] = field(default_factory=list)
    recording: Recording | None = None
    used: bool = False


class CapturedSteps:
    """The steps of a stage whose gradient is that of one sum of losses."""

    def __init__(
        self, run: Run, backward: Backward, plain: WeightedSum, update: Deferred, packing: Packing
    ) -> None:
        self._model, self._weighting, self._device = run.model, run.weighting, run.ranks.device
        self._backward, self._plain, self._update, self._packing = backward, plain, update, packing
        self._fixed: dict[Shape, Fixed] = {}
        self._record = RECORDERS[run.ranks.device.type]
        self._alike = all(
            len(info.users) == len(self._model.tasks)
            for name, info in self._model.parameter_infos.items()
            if name.startswith("trunk.")
        )
        """Whether the trunk does the same with the inputs of all tasks."""

    def takes(self, batches: Batches) -> bool:
        """Return whether a step of these batches can be recorded. It cannot where the numbers of
        tokens of several tasks in one packed batch matter, or where inputs belong together."""
        if len(batches) > 1 and self._model.trunk.joint and not self._alike:
            return False
        micros = [micro for batch in batches.values() for micro in batch.micro]
        return all(micro.widest is None and not micro.sequences for micro in micros)

    def __call__(self, batches: Batches, step: Step) -> Updated:
        """Make the whole step: passes, clip and update."""
        groups = self._plain.passes_of(batches)
        host = [self._planned(each) for group in groups for each in group]
        shape = tuple(each.shape for each in host)
        # Learned weights are computed on the device.
        learned = bool(self._weighting.parameters())
        weights: dict[str, Any] = {} if learned else self._weighting.weights_unread(step)
        numbers = np.array(
            [weights.get(name, 1.0) for name in batches]
            + [number for each in host for number in each.counts],
            np.float32,
        )
        arrays = [numbers, *(array for each in host for array in each.arrays)]
        fixed = self._fixed.get(shape)
        if fixed is None:
            fixed = self._fix(batches, host, arrays)
            if len(self._fixed) < MOST:
                self._fixed[shape] = fixed
        fixed.memory.fill(arrays)
        for layout, each in zip(fixed.layouts, host, strict=True):
            layout.regroup(each.plan.lengths)
        launched = self._launch(fixed, step, learned=learned)
        outcome = Outcome(launched.losses, weights, None, sum(tokens for tokens, _ in shape))
        parameters = self._backward.passes.parameters
        return self._update.updated(parameters, step, batches, outcome, launched)

    def _launch(self, fixed: Fixed, step: Step, *, learned: bool) -> Launched:
        """Launch the work of a step: kernel by kernel the first time, recorded the second time."""

        def work() -> Launched:
            self._update.clear()
            weights: dict[str, Any] = (
                self._weighting.weights_unread(step)
                if learned
                else dict(zip(fixed.batches, fixed.weights.unbind(), strict=True))
            )
            outcome = self._plain.run(fixed.batches, step, [fixed.passes], weights)
            if not learned:
                outcome.weights = {}  # The host knows them.
            launched = self._update.launch(self._backward.passes.parameters, outcome)
            # A recorded gradient's memory is used again by the graphs that are recorded later.
            self._update.clear()
            return launched

        if not fixed.used:
            fixed.used = True
            return work()
        if fixed.recording is None:
            fixed.recording = self._record(work, self._device)
        return fixed.recording.replay()

    def _planned(self, one_pass: Pass) -> HostPass:
        reading = [self._model.tasks[part.task].reads_tokens for part in one_pass]
        return HostPass(one_pass, reading, self._packing)

    def _fix(self, batches: Batches, host: Sequence[HostPass], arrays: list[NDArray[Any]]) -> Fixed:
        """Return fixed places for steps of this shape."""
        memory = Memory([torch.from_numpy(array) for array in arrays], self._device)
        there = iter(memory.tensors)
        numbers = next(there)
        counts = iter(numbers[len(batches) :].unbind())
        passes = [each.fixed(there, counts) for each in host]
        parts = [part for one_pass in passes for part in one_pass]
        made = {
            name: TaskBatch(
                [part.batch for part in parts if part.task == name],
                batch.examples,
                batch.tokens,
                batch.own_tokens,
                batch.indices,
            )
            for name, batch in batches.items()
        }
        layouts = [
            one_pass[0].batch.packed.layout
            for one_pass in passes
            if isinstance(one_pass[0].batch, PlacedBatch)
        ]
        return Fixed(memory, made, passes, numbers[: len(batches)], layouts)


class HostPass:
    """A pass in host memory: its shape, and the numbers that go to fixed places."""

    def __init__(self, one_pass: Pass, reading: Sequence[bool], packing: Packing) -> None:
        """`reading`: for each part, whether its head reads the states of all tokens."""
        self.packing = packing
        self.tasks = [part.task for part in one_pass]
        plan = self.plan = plan_layout([part.batch for part in one_pass], packing)
        self.parts, destinations, begin = [], [], 0
        for part, reads in zip(one_pass, reading, strict=True):
            widest = int(part.batch.lengths.max())
            width = -(-widest // TOKENS) * TOKENS if reads else 0
            self.parts.append(
                part.batch.pick(np.arange(len(part.batch)), width)
                if reads
                else _without_tokens(part.batch)
            )
            destinations.append(_destinations(plan, begin, len(part.batch), width))
            begin += len(part.batch)
        widths = [batch.input_ids.shape[1] for batch in self.parts]
        self.shape = (
            plan.budget,
            tuple(zip(self.tasks, map(len, self.parts), widths, strict=True)),
        )
        self.counts = [
            number for batch in self.parts for number in (batch.denominator, batch.examples)
        ]
        segments = [
            part.batch.token_type_ids for part in one_pass if part.batch.token_type_ids is not None
        ]
        self.segments = bool(segments)
        masks = [part.batch.attention_mask.numpy() for part in one_pass]
        self.arrays: list[NDArray[Any]] = [
            _filled([part.batch.input_ids for part in one_pass], masks, plan),
            *([_filled(segments, masks, plan)] if segments else []),
            plan.owners < len(plan.rows),
            plan.ends.astype(np.int32),
            *(plan.positions, plan.first, plan.last, plan.owners),
        ]
        for batch, places in zip(self.parts, destinations, strict=True):
            self.arrays += [tensor.numpy() for tensor in batch.tensors()]
            if batch.input_ids.shape[1]:
                self.arrays.append(places)

    def fixed(self, tensors: Iterator[Tensor], counts: Iterator[Tensor]) -> Pass:
        """Return the same pass over tensors at fixed places."""
        plan = self.plan
        ids = next(tensors).unsqueeze(0)
        segments = next(tensors).unsqueeze(0) if self.segments else None
        mask, ends, positions, first, last, owners = (next(tensors) for _ in range(6))
        packed = PackedBatch(
            input_ids=ids,
            attention_mask=mask.unsqueeze(0),
            token_type_ids=segments,
            columns={},
            lengths=plan.rows,
            indices=np.concatenate([batch.indices for batch in self.parts]),
            denominator=1.0,
            pad_id=self.parts[0].pad_id,
            # Numbers of tokens differ between steps. Only a trunk with parts of single tasks reads
            # them, and the steps of several such tasks are not recorded.
            parts=tuple((task, plan.budget) for task in self.tasks),
            layout=Layout(
                plan.lengths,
                ends,
                positions.unsqueeze(0),
                first,
                last,
                first[:0],
                owners,
                self.packing.longest,
            ),
        )
        one_pass, begin = [], 0
        for task, host in zip(self.tasks, self.parts, strict=True):
            batch = host.with_tensors(tensors)
            rows, shape = slice(begin, begin + len(batch)), batch.input_ids.shape
            places = (
                FixedPlaces(slice(None), rows, next(tensors), shape)
                if shape[1]
                else Places(slice(0, 0), rows, first[:0], shape)
            )
            placed = PlacedBatch(
                **_fields(batch) | {"denominator": next(counts), "examples": next(counts)},
                packed=packed,
                places=places,
            )
            one_pass.append(TaskMicroBatch(task, placed))
            begin += len(batch)
        return one_pass


def _filled(
    padded: Sequence[Tensor], masks: Sequence[NDArray[np.bool_]], plan: Plan
) -> NDArray[np.int64]:
    """Return the tokens of padded batches one behind another, and the first again and again behind
    them: (T,)."""
    filled = np.empty(plan.budget, np.int64)
    np.concatenate(
        [tensor.numpy()[mask] for tensor, mask in zip(padded, masks, strict=True)],
        out=filled[: plan.tokens],
    )
    filled[plan.tokens :] = filled[0]
    return filled


def _without_tokens(batch: Batch) -> Batch:
    """Return a batch whose head does not read tokens without them."""
    return replace(
        batch,
        input_ids=batch.input_ids[:, :0],
        attention_mask=batch.attention_mask[:, :0],
        token_type_ids=None,
        token_targets={},
    )


def _destinations(plan: Plan, begin: int, count: int, width: int) -> NDArray[np.int64]:
    """Return the places of all tokens of a pass among the padded ones of a part, whose `count` rows
    of `width` tokens begin with row `begin`: (T,). Tokens of other parts go behind the last one."""
    rows = plan.owners - begin
    inside = (rows >= 0) & (rows < count)
    return np.where(inside, rows * width + plan.inside, count * width)


def _fields(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}


def capture_steps(run: Run, backward: Backward, update: Update) -> CapturedSteps | str | None:
    """Return what records the steps of a stage, or why it cannot be. None: on this kind of device
    nothing is recorded, or the user has said so."""
    config, runner, trunk = run.config, run.config.runner, run.model.trunk
    if run.ranks.device.type not in RECORDERS or "off" in (runner.fast, runner.graphs):
        return None
    if run.ranks.world_size > 1:
        return "gradients are summed over several devices"
    if run.model.packing is None:
        return "batches are padded"
    if backward.plain is None:
        return f"weighting={config.weighting.name} needs more than the gradient of one sum"
    if not isinstance(update, Deferred):
        return f"optim={config.optim.name} reads numbers in each step"
    if isinstance(trunk, HasBatchLoss | ObservesSteps | DrawsOnceAStep):
        return f"sharing={config.sharing.name} needs the host in each step"
    if run.model.augmentation is not None:
        return f"augmentation={config.augmentation.name} makes passes of its own"
    if config.model.gradient_checkpointing:
        return "model.gradient_checkpointing reads the random state in each step"
    if config.optim.unfreeze_every is not None:
        return "optim.unfreeze_every changes the parameters that are trained"
    return CapturedSteps(run, backward, backward.plain, update, run.model.packing)
