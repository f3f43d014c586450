"""Adding up what the ranks of one machine have on its CPU, in memory that all of them see: gloo
sends it through the network's layers."""

from __future__ import annotations

import os
from contextlib import suppress

import torch
import torch.distributed as dist
from torch import Tensor


class SharedSum:
    """A slot of memory for each rank. The ranks call the same methods with the same sizes, each
    with a transfer in between (any will do): what one still reads the others must not yet write."""

    def __init__(self, rank: int, world: int) -> None:
        self._rank, self._world = rank, world
        self._slots = torch.empty(0)

    def slot(self, size: int, most: int) -> Tensor:
        """This rank's: (size,) fp32. What is written here `total` adds up. `most`: a size that will
        do for later calls as well; what is not written takes no memory."""
        if self._slots.numel() < size * self._world:
            self._slots = torch.empty(0)
            self._slots = self._map(self._rounded(most))
        return self._slots[self._rank, :size]

    def total(self, size: int) -> Tensor:
        """The sums of all slots: (size,), in this rank's own slot, where they are good until it is
        written again. Each rank adds up a part for all, in order of rank: the sums are the same
        every time."""
        dist.barrier()
        part = self._slots[:, : self._rounded(size)].chunk(self._world, 1)[self._rank]
        for other in part[1:]:
            part[0].add_(other)
        part[1:].copy_(part[0])
        dist.barrier()
        return self._slots[self._rank, :size]

    def _rounded(self, size: int) -> int:
        """Up to a multiple of the ranks and of a cache line's 16 numbers, so that parts are alike
        and no two ranks write into one line."""
        step = 16 * self._world
        return -(-size // step) * step

    def _map(self, width: int) -> Tensor:
        """(world, width) that all ranks see. It has no name that could be left behind, and is gone
        with the last of them.

        Raises OSError, on all ranks, when one of them cannot have it.
        """
        size = self._world * width
        place, descriptor = [0, -1], -1
        if self._rank == 0 and hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("mtl")
            os.ftruncate(descriptor, 4 * size)
            place = [os.getpid(), descriptor]
        told = torch.tensor(place)
        dist.broadcast(told, 0)
        process, number = told.tolist()
        mapped = None
        with suppress(RuntimeError):
            mapped = torch.from_file(
                f"/proc/{process}/fd/{number}", shared=True, size=size, dtype=torch.float32
            )
        all_have = torch.tensor([int(mapped is not None)])
        dist.all_reduce(all_have, dist.ReduceOp.MIN)
        if descriptor >= 0:
            os.close(descriptor)
        if mapped is None or not all_have:
            raise OSError("the ranks cannot share memory")
        return mapped.view(self._world, width)


def shared_sum(rank: int, world: int) -> SharedSum | None:
    """For ranks that are all on this machine. None where the system (other than Linux) or its rules
    do not let them share memory."""
    made = SharedSum(rank, world)
    try:
        made.slot(1, 1)
    except OSError:
        return None
    return made
