"""Tensors of which each rank holds a shard (torch's DTensor), and the whole of them.

`runner.engine=fsdp` turns the parameters of a model into shards, with their gradients and what the
optimiser keeps for them. All ranks call these functions together and in the same order. A tensor
without shards stays as it is, so that other runs pass through the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def is_shard(tensor: Tensor) -> bool:
    """Return whether this rank holds only a shard of a tensor."""
    # By the name of a method: the class lies in a package that takes long to import.
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor, in its own shape, on every rank."""
    shard: Any = tensor
    full: Tensor = shard.full_tensor() if is_shard(tensor) else tensor
    return full


def part(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor as a plain tensor, through which gradients pass; any
    other tensor as it is."""
    shard: Any = tensor
    own: Tensor = shard.to_local() if is_shard(tensor) else tensor
    return own


def sum_of_parts(value: Tensor, of: Tensor) -> Tensor:
    """Return a number that each rank has computed from its `part` of tensors like `of`, summed over
    ranks. No gradient passes through."""
    if not is_shard(of):
        return value
    from torch.distributed.tensor import DTensor, Partial

    shard: Any = of
    return DTensor.from_local(value.detach(), shard.device_mesh, [Partial()]).full_tensor()


@torch.no_grad()
def copy_whole(target: Tensor, source: Tensor) -> None:
    """Copy a tensor that each rank has as a whole into one of the same shape, or into this rank's
    shard of one."""
    if is_shard(target):
        from torch.distributed.tensor import distribute_tensor

        shard: Any = target
        # With `src_data_rank=None`, each rank cuts its shard from its own source.
        source = distribute_tensor(source, shard.device_mesh, shard.placements, src_data_rank=None)
    target.copy_(source)


class Wholes(Mapping[str, Tensor]):
    """Tensors by name, each of which becomes whole when it is read, so that no more than one at a
    time is whole on this rank's device."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return whole(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def take_part(self) -> None:
        """Help another rank that reads all tensors, in their order."""
        for _ in self.values():
            pass
