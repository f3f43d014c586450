"""The batch-size finder for `runner.max_tokens=auto`: how many padded tokens of a task can go
through the model at once within the free memory.

The finder runs passes over the longest inputs, twice as many each time, until the memory of one
more input is clear. It subtracts what the rest of a run will need: the optimiser's two states, the
copies that a save makes, gradient rows, and on a CPU the kernels that are compiled for each shape
of a batch in bf16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import Parameter

from mtlcli import garbage, memory
from mtlcli.config import Config
from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.data.features import Features
from mtlcli.disk import size_text
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import RunError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.precision import shapes_kept
from mtlcli.prepare.prepare import Prepared
from mtlcli.tasks.base import FIXED
from mtlcli.training.analysis.cost import PeakMemory, memory_now
from mtlcli.training.gradient_rows import DTYPES
from mtlcli.weighting.base import Weighting
from mtlcli.weighting.kept_rows import RowKeeping

SHARE = 0.8
"""The share of the free memory that a run may use; the rest is for allocators, and for other
programs."""
CLEAR = 64 * 2**20
"""The number of bytes by which two measurements must differ, so that a few pages more or less do
not matter."""


def find_max_tokens(
    config: Config,
    prepared: Prepared,
    model: MultiTaskModel,
    weighting: Weighting,
    *,
    input_format: InputFormat,
    bf16: bool,
    ranks: Ranks,
    say: Callable[[str], None],
) -> int | None:
    """Return `runner.max_tokens`, for `auto` what fits into the memory of these devices; then `say`
    how it was found."""
    runner, features = config.runner, prepared.train_features
    if runner.max_tokens != "auto":
        return runner.max_tokens
    sizes = {name: prepared.tasks[name].config.batch_size or runner.batch_size for name in features}
    max_tokens, found = largest_batch(
        model,
        weighting,
        features,
        sizes,
        input_format=input_format,
        bf16=bf16,
        accumulation=runner.accumulation,
        ranks=ranks,
    )
    say(f"max_tokens: {max_tokens:,} padded tokens of a task in a step ({found})")
    return max_tokens


def largest_batch(
    model: MultiTaskModel,
    weighting: Weighting,
    features: Mapping[str, Features],
    batch_sizes: Mapping[str, int],
    *,
    input_format: InputFormat,
    bf16: bool,
    accumulation: int,
    ranks: Ranks,
) -> tuple[int, str]:
    """Return the number of padded tokens of a task in a step, over all ranks and micro-batches,
    that fits into memory, and a text for the user on how it was found.

    Raises RunError when the longest input of a task does not fit.
    """
    free = SHARE * free_memory(ranks.device)
    probe = Probe(model, input_format=input_format, bf16=bf16, device=ranks.device)
    reserve = _reserve(model, weighting, ranks)
    parts = accumulation * ranks.world_size
    costs = _measure(
        probe,
        model,
        features,
        {name: -(-size // parts) for name, size in batch_sizes.items()},
        room=lambda: free - reserve - probe.kept(),
    )
    room = free - reserve - probe.kept()
    lengths = {name: int(_tokens(each).max()) for name, each in features.items()}
    fits = []
    for name, cost in costs.items():
        inputs = _inputs_that_fit(name, cost, lengths[name], free=free, room=room)
        text = (
            f"{size_text(int(cost.one / lengths[name]))} a token, {size_text(int(room))} for them"
        )
        fits.append((inputs * lengths[name] * parts, text))
    # Cap at the largest batch that can occur, so that the value does not depend on the machine.
    # Take the smallest value of all ranks, which may have different amounts of memory.
    largest = max(batch_sizes[name] * length for name, length in lengths.items())
    tokens, found = min(fits)
    return -ranks.all_reduce_max(-min(largest, tokens)), found


@dataclass(frozen=True)
class Cost:
    """The memory of a training pass over the longest inputs of a task."""

    inputs: int
    """The number of inputs of the largest pass that was measured."""
    total: int
    """The bytes of this pass."""
    one: float
    """The bytes of one more input."""


def _measure(
    probe: Probe,
    model: MultiTaskModel,
    features: Mapping[str, Features],
    micro_batch_sizes: Mapping[str, int],
    *,
    room: Callable[[], float],
) -> dict[str, Cost]:
    """Measure the passes of every task. The model's buffers and the random state are as before
    afterwards. `room`: returns the bytes that are left for inputs."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.train()
        costs = {
            name: _cost_of_task(probe, name, each, most=micro_batch_sizes[name], room=room)
            for name, each in features.items()
        }
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return costs


def _cost_of_task(
    probe: Probe, name: str, features: Features, *, most: int, room: Callable[[], float]
) -> Cost:
    """Double the inputs of a pass until the memory of one more is clear, a micro-batch of `most`
    inputs is reached, or the next pass may not fit into the room."""
    count, few = 1, probe(name, features, 1)
    while True:
        many = probe(name, features, 2 * count)
        one = max(many - few, 1) / count
        count *= 2
        if many - few > CLEAR or count >= most or many + count * one > room():
            return Cost(inputs=count, total=many, one=one)
        few = many


def _inputs_that_fit(name: str, cost: Cost, length: int, *, free: float, room: float) -> int:
    """Return the number of inputs of `length` tokens that fit into the `room`, of the `free` bytes
    that a run may take. Raises RunError when none fits."""
    inputs = int(cost.inputs + (room - cost.total) / cost.one)
    if inputs < 1:
        needs = size_text(int(cost.total - (cost.inputs - 1) * cost.one))
        raise RunError(
            f"one input of {name} with {length} tokens needs {needs}; a run may take "
            f"{size_text(int(free))} here, and {size_text(max(0, int(room)))} of that is left for "
            "inputs",
            where="runner.max_tokens=auto",
            fix="lower data.max_length, type model.gradient_checkpointing=true, or take a smaller "
            "model",
        )
    return inputs


def _tokens(features: Features) -> NDArray[np.int64]:
    """Return the number of padded tokens of each example, targets included: (examples,)."""
    return (features.example_lengths + features.example_targets) * features.example_sizes


class Probe:
    """A probe that measures the memory of training passes, apart from the memory that stays in use
    after them."""

    def __init__(
        self, model: MultiTaskModel, *, input_format: InputFormat, bf16: bool, device: torch.device
    ) -> None:
        self._model, self._bf16, self._device = model, bf16, device
        self._collate = partial(collate, input_format=input_format, denominator=1.0)
        garbage.give_back()
        self._resident = [memory_now(device)]
        self._kernels = bf16 and device.type == "cpu"

    def __call__(self, name: str, features: Features, count: int) -> int:
        """Return the bytes that a forward and backward pass over `count` copies of the longest
        input of a task needs.

        The first pass of a shape is not measured: it loads libraries and compiles kernels, which
        stay.
        """
        longest = np.full(count, int(_tokens(features).argmax()))
        batch = self._collate(features, features.members(longest))
        batch = self._model.tasks[name].drawn(batch, FIXED).to(self._device)
        self._pass(name, batch)
        garbage.give_back()
        self._resident.append(memory_now(self._device))
        memory = PeakMemory(self._device)
        self._pass(name, batch)
        return memory.bytes() - self._resident[-1]

    def kept(self) -> int:
        """Return the number of bytes that stay in use after passes: libraries, and the kernels of
        all shapes that oneDNN will keep."""
        so_far = self._resident[-1] - self._resident[0]
        if not self._kernels:
            return so_far
        # The first pass also loads libraries; each later pass compiles the kernels of one shape.
        of_a_shape = (
            max(0, int(np.median(np.diff(self._resident[1:])))) if len(self._resident) > 2 else 0
        )
        return so_far + of_a_shape * max(0, shapes_kept() - (len(self._resident) - 1))

    def _pass(self, name: str, batch: Batch) -> None:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            loss = self._model(name, batch).loss
        if loss.requires_grad:
            loss.backward()
        self._model.zero_grad(set_to_none=True)


def free_memory(device: torch.device) -> int:
    """Return the number of bytes that this rank can still take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return memory.free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _reserve(model: MultiTaskModel, weighting: Weighting, ranks: Ranks) -> int:
    """Return the number of bytes that the run will hold beside a pass: Adam's two states, on a CPU
    the copies of a save, gradient rows or torch's buckets of gradients, and dense gradients of word
    embeddings."""

    def size(parameters: list[Parameter]) -> int:
        return sum(parameter.nbytes for parameter in parameters)

    gradients = size([parameter for parameter in model.parameters() if parameter.requires_grad])
    states = 2 * gradients
    copies = states + size(list(model.parameters())) if ranks.device.type == "cpu" else 0
    rows = 0 if ranks.world_size == 1 else gradients
    if weighting.balances_gradients:
        rows = (
            len(weighting.tasks)
            * model.parameter_counts()["shared"]
            * DTYPES[weighting.config.rows].itemsize
        )
    elif isinstance(weighting, RowKeeping):
        # The rows of a step, and the numbers that are kept.
        rows = 2 * len(weighting.tasks) * model.parameter_counts()["shared"] * 4
    # A pass gives sparse gradients of word embeddings, from which a step makes dense ones.
    dense = sum(
        module.weight.nbytes
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding) and module.sparse
    )
    return states + copies + rows + dense
