"""The cost of a run beside time: floating-point operations per example, and peak memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mtlcli.memory import resident, resident_peak
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.training.task_batch import TaskBatch


class PeakMemory:
    """The most memory that this process has held since this object was made: on a GPU the memory
    that torch has allocated there, else resident memory.

    Where the system cannot reset its count (macOS, some containers), this is the most resident
    memory since the process began.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        # Reset Linux's count of the peak, because all jobs of a sweep run in one process.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Return the number of bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        known = resident_peak()
        if known is not None:
            return known
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def memory_now(device: torch.device) -> int:
    """Return the number of bytes that this process holds now: on a GPU the memory that torch has
    allocated there, else resident memory."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident()


def flops_per_example(
    model: MultiTaskModel, batches: Mapping[str, TaskBatch], *, bf16: bool
) -> float:
    """Return the floating-point operations per example in the matrix products of a forward and
    backward pass, averaged over all examples of the batches.

    Frozen parameters need no gradient and so fewer operations. `.grad` is empty afterwards.
    `bf16`: whether the run multiplies in bf16; shards of its parameters then are whole in bf16.
    """
    device = next(model.parameters()).device
    # The counter does not know the CPU's attention kernel, but counts all products of attention in
    # the plain implementation.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for name, batch in batches.items():
            for micro in batch.micro:
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = model(name, micro.to(device)).loss
                if loss.requires_grad:
                    loss.backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / max(
        1, sum(len(micro.input_ids) for batch in batches.values() for micro in batch.micro)
    )
