"""The sum of gradients over ranks on the CPU of one machine, in memory that all ranks share. gloo
would send the gradients through the layers of the network."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from mtlcli.distributed.process_group import Ranks


class SharedSum:
    """A slot of shared memory for each rank. All ranks call the same methods with the same sizes,
    and make any collective operation between two calls: no rank may overwrite a slot that another
    rank still reads."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._slots = torch.empty(0)

    def __call__(self, parts: list[Tensor]) -> Tensor:
        """Return the sum over all ranks of vectors that are joined to one. It is valid until the
        next call."""
        size = sum(part.numel() for part in parts)
        torch.cat(parts, out=self.slot(size))
        return self.total(size)

    def slot(self, size: int) -> Tensor:
        """Return this rank's slot: (size,) fp32. `total` adds up the slots."""
        if self._slots.numel() < size * self._world_size:
            self._slots = torch.empty(0)
            # Later sizes may be larger; memory that is never written takes no space.
            self._slots = self._map(self._rounded(2 * size))
        return self._slots[self._rank, :size]

    def total(self, size: int) -> Tensor:
        """Return the sum of all slots: (size,), in this rank's own slot, valid until the slot is
        written again. Each rank adds up one part for all ranks, in the order of the ranks, so that
        the sums are the same every time."""
        dist.barrier()
        part = self._slots[:, : self._rounded(size)].chunk(self._world_size, 1)[self._rank]
        for other in part[1:]:
            part[0].add_(other)
        part[1:].copy_(part[0])
        dist.barrier()
        return self._slots[self._rank, :size]

    def _rounded(self, size: int) -> int:
        """Round a size up to a multiple of the number of ranks times the 16 numbers of a cache
        line, so that all parts are equal and no two ranks write into one cache line."""
        step = 16 * self._world_size
        return -(-size // step) * step

    def _map(self, width: int) -> Tensor:
        """Return a tensor (world_size, width) of memory that all ranks share. The memory has no
        name that could be left behind, and is freed with the last rank.

        Raises OSError, on all ranks, when one of them cannot map the memory.
        """
        size = self._world_size * width
        place, descriptor = [0, -1], -1
        if self._rank == 0 and hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("mtl")
            os.ftruncate(descriptor, 4 * size)
            place = [os.getpid(), descriptor]
        message = torch.tensor(place)
        dist.broadcast(message, 0)
        process, number = message.tolist()
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
        return mapped.view(self._world_size, width)


def share_memory(ranks: Ranks) -> Ranks:
    """Return ranks that add up gradients in shared memory, if all of them run on the CPU of this
    machine, and the system (Linux) and its rules let them share memory."""
    if ranks.world_size == 1 or not ranks.is_local or ranks.device.type != "cpu":
        return ranks
    made = SharedSum(ranks.rank, ranks.world_size)
    try:
        made.slot(1)
    except OSError:
        return ranks
    return replace(ranks, sum_flat=made)
