"""What a run costs, beside time: floating-point operations of an example, and peak memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mtlcli.models.multitask import MultiTaskModel
from mtlcli.training.step import TaskBatch


class PeakMemory:
    """The most memory that this process has held since it was made: on a GPU what torch took there,
    else resident memory.

    Where the system cannot count anew (macOS, some containers), resident memory since the process
    began.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        # Linux counts anew when told to: the jobs of a sweep are one process.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        known = resident_peak()
        if known is not None:
            return known
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def resident_peak(process: int | str = "self") -> int | None:
    """The most resident memory that a process has held since the system last counted anew, in
    bytes; None where the system does not say."""
    return _status(process, "VmHWM:")


def memory_now(device: torch.device) -> int:
    """Bytes that this process holds now: on a GPU what torch has allocated there, else resident
    memory (its peak where the system does not say more)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    resident = _status("self", "VmRSS:")
    return PeakMemory(device).bytes() if resident is None else resident


def _status(process: int | str, key: str) -> int | None:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None


def flops_per_example(model: MultiTaskModel, batches: Mapping[str, TaskBatch]) -> float:
    """Floating-point operations in the matrix products of a forward and backward pass, over all
    examples of the batches.

    What is frozen needs no gradient and counts less. `.grad` is empty afterwards.
    """
    device = next(model.parameters()).device
    # The counter knows no attention kernel for the CPU, but all the products that attention is made
    # of.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for name, batch in batches.items():
            for micro in batch.micro:
                loss = model(name, micro.to(device)).loss
                if loss.requires_grad:
                    loss.backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / max(
        1, sum(len(micro.input_ids) for batch in batches.values() for micro in batch.micro)
    )
