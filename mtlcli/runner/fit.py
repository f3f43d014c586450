"""`runner.max_tokens=auto`: how many padded tokens of a task go through the model at once without more memory than there is.

Found out by doing it: passes over the longest inputs, twice as many each time, until what one input more takes is clear. What the rest of a
run will need is taken off before: the optimiser's two states, the copies that a save makes, rows of gradients.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch.nn import Parameter

from mtlcli.data.batches import collate
from mtlcli.data.features import Features
from mtlcli.disk import size_text
from mtlcli.errors import RunError
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.runner.cost import PeakMemory
from mtlcli.runner.distributed import Ranks
from mtlcli.runner.rows import DTYPES
from mtlcli.weighting.base import Weighting
from mtlcli.weighting.gradients.base import GradientBalancing

SHARE = 0.8
"""Of the memory that is free; the rest is for allocators, and for what others may yet take."""
CLEAR = 64 * 2**20
"""Bytes by which two measurements must differ: a page more or less does not matter then."""
CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""What limits the memory of a container, in both versions of control groups: the limit, what is used, and what of that can be dropped."""


def largest_batch(
    model: MultiTaskModel,
    weighting: Weighting,
    features: Mapping[str, Features],
    batch_sizes: Mapping[str, int],
    *,
    pad_id: int,
    uses_segments: bool,
    bf16: bool,
    accumulation: int,
    ranks: Ranks,
) -> tuple[int, str]:
    """The padded tokens of a task in a step, over all ranks and micro-batches, that fit; and how that was found, for people.

    Raises RunError when the longest input of a task does not fit, or the system does not say how much memory is free.
    """
    free = SHARE * free_memory(ranks.device)
    room = free - _reserve(model, weighting, ranks.device)
    held = PeakMemory(ranks.device).bytes()
    parts = accumulation * ranks.world
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    fits, largest = [], 0
    with torch.random.fork_rng(devices):
        model.train()
        for name, each in features.items():
            longest, length = int(each.lengths.argmax()), int(each.lengths.max())

            def peak(count: int, name: str = name, each: Features = each, longest: int = longest) -> int:
                """Bytes above what was held before the first pass: an allocator may keep what a pass has freed, and give it to the next."""
                indices = np.full(count, longest)
                batch = collate(each, indices, pad_id=pad_id, uses_segments=uses_segments, denominator=1.0).to(ranks.device)
                memory = PeakMemory(ranks.device)
                with torch.autocast(ranks.device.type, torch.bfloat16, enabled=bf16):
                    loss = model(name, batch).loss
                if loss.requires_grad:
                    loss.backward()
                model.zero_grad(set_to_none=True)
                return memory.bytes() - held

            most = -(-batch_sizes[name] // parts)
            count, few = 1, peak(1)
            while True:
                many = peak(2 * count)
                one = max(many - few, 1) / count
                count *= 2
                if many - few > CLEAR or count >= most or many + count * one > room:
                    break
                few = many
            inputs = int(count + (room - many) / one)
            if inputs < 1:
                what = f"one input of {name} with {length} tokens needs {size_text(int(many - (count - 1) * one))}"
                raise RunError(
                    f"{what}, of {size_text(int(free))} that a run may take here {size_text(max(0, int(room)))} are left for it",
                    where="runner.max_tokens=auto",
                    fix="lower data.max_length, type model.gradient_checkpointing=true, or take a smaller model",
                )
            fits.append((inputs * length * parts, f"{size_text(int(one / length))} a token, {size_text(int(room))} for them"))
            largest = max(largest, batch_sizes[name] * length)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    # What no batch reaches says nothing, and would differ from machine to machine. Ranks may have different room.
    tokens, found = min(fits)
    return -ranks.most(-min(largest, tokens)), found


def free_memory(device: torch.device) -> int:
    """Bytes that this rank can still take. Raises RunError when the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = []
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    if not found:
        raise RunError("the system does not say how much memory is free", "runner.max_tokens=auto", "give a number of tokens")
    for limit, used, droppable in CGROUPS:
        with suppress(OSError, ValueError):  # Without a limit there is no file, or it says "max".
            root = Path("/sys/fs/cgroup")
            statistics = dict(line.split() for line in (root / limit).with_name("memory.stat").read_text().splitlines())
            taken = int((root / used).read_text()) - int(statistics.get(droppable, 0))
            found.append(int((root / limit).read_text()) - taken)
    return min(found) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _reserve(model: MultiTaskModel, weighting: Weighting, device: torch.device) -> int:
    """Bytes that the run will hold beside a pass: Adam's two states, on a CPU the copies of a save, and rows of gradients."""

    def size(parameters: list[Parameter]) -> int:
        return sum(parameter.nbytes for parameter in parameters)

    states = 2 * size([parameter for parameter in model.parameters() if parameter.requires_grad])
    copies = states + size(list(model.parameters())) if device.type == "cpu" else 0
    rows = 0
    if isinstance(weighting, GradientBalancing):
        rows = len(weighting.tasks) * model.parameter_counts()["shared"] * DTYPES[weighting.config.rows].itemsize
    # A pass gives sparse gradients of word embeddings, a step makes dense ones of them.
    dense = sum(module.weight.nbytes for module in model.modules() if isinstance(module, torch.nn.Embedding) and module.sparse)
    return states + copies + rows + dense
