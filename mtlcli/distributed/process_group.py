"""The ranks of a run: the place of this process among them, and the few collective operations that
a run needs. With one rank these operations do nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore

from mtlcli.config.run import Runner
from mtlcli.distributed.environment import read_launch
from mtlcli.distributed.rendezvous import QUIET, meet, stay_local
from mtlcli.errors import MtlError, RunError, UserError, count_of, reported_problems

ERROR_KEY = "error"
"""Key of the store where the ranks meet, under which a failing rank leaves its error."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the processes of the run."""

    rank: int
    """Number of this process, from 0."""
    world_size: int
    """Number of processes."""
    device: torch.device
    """The device of this process."""
    is_local: bool = True
    """Whether all processes run on this machine."""
    store: PrefixStore | None = None
    """The store in which the ranks have met; its content outlives the rank that wrote it. None:
    this process is the only rank."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and the messages for the user."""
        return self.rank == 0

    def report_error(self, error: MtlError) -> None:
        """Write the error that ends this rank into the store, for the first rank, which reports it
        to the user. The first rank writes nothing."""
        if self.store is not None and not self.is_main:
            report = {"rank": self.rank, **error.report()}
            # A DistError means that the store is gone, and with it the first rank or the launcher.
            with suppress(dist.DistError):
                self.store.set(ERROR_KEY, json.dumps(report))

    def error_of_another_rank(self) -> MtlError | None:
        """Return the error that another rank has left in the store; None when there is none. A
        UserError keeps its text; any other error gets the rank's number."""
        try:
            if self.store is None or not self.store.check([ERROR_KEY]):
                return None
            report = json.loads(self.store.get(ERROR_KEY))
        except dist.DistError:
            return None
        found = reported_problems(report)
        if report["by_user"]:
            return UserError(found)
        return RunError(
            [replace(problem, what=f"rank {report['rank']}: {problem.what}") for problem in found]
        )

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, number: int) -> int:
        """Return the largest of all ranks' numbers."""
        if self.world_size == 1:
            return number
        # In host memory: a number on a GPU would be read once all steps before are done.
        found = torch.tensor([number])
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def broadcast_json(self, value: Any) -> Any:
        """Return the JSON value of rank 0 on every rank. The value travels as text, so that nothing
        is unpickled."""
        if self.world_size == 1:
            return value
        content = torch.tensor(
            list(json.dumps(value).encode()) if self.is_main else [],
            dtype=torch.uint8,
        )
        size = torch.tensor([len(content)])
        dist.broadcast(size, 0)
        if not self.is_main:
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, 0)
        return json.loads(bytes(content.tolist()))

    def all_gather(self, vector: Tensor) -> Tensor:
        """Return the vectors of all ranks, equally long, in one vector in the order of the
        ranks."""
        whole = torch.empty(self.world_size * len(vector), dtype=vector.dtype, device=self.device)
        dist.all_gather(list(whole.chunk(self.world_size)), vector)
        return whole

    def reduce_scatter(self, vector: Tensor) -> Tensor:
        """Return this rank's part of the sum of all ranks' vectors, whose length is a multiple of
        the number of ranks."""
        part = torch.empty(len(vector) // self.world_size, dtype=vector.dtype, device=self.device)
        # torch 2.13 has given the function another name, and warns of the old one.
        scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
        scatter(part, vector)
        return part

    def all_gather_unique(self, ids: Tensor) -> Tensor:
        """Return the sorted distinct values of an integer vector over all ranks. The ranks' vectors
        may differ in length."""
        ids = torch.unique(ids)
        if self.world_size == 1:
            return ids
        # Pad with -1, which is not an id.
        padded = torch.nn.functional.pad(
            ids, (0, self.all_reduce_max(len(ids)) - len(ids)), value=-1
        )
        found = torch.unique(self.all_gather(padded))
        return found[found >= 0]

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


def choose_device(runner: Runner, local_rank: int, wanted: int) -> torch.device:
    """Return the device of a rank, where `wanted` ranks run on this machine. Raises UserError when
    `runner.device` or the number of ranks asks for more than the machine has."""
    cuda = torch.cuda.is_available()
    if runner.device == "cuda" and not cuda:
        raise UserError(
            "no CUDA device is available",
            where="runner.device=cuda",
            fix="type runner.device=cpu, or check the driver",
        )
    if runner.device == "cpu" or not cuda:
        return torch.device("cpu")
    if wanted > torch.cuda.device_count():
        raise UserError(
            f"the run asks for {count_of(wanted, 'device')}, and this machine has "
            f"{count_of(torch.cuda.device_count(), 'GPU')}",
            where="runner.devices",
            fix=f"type runner.devices={torch.cuda.device_count()} or runner.device=cpu",
        )
    return torch.device("cuda", local_rank)


def is_lost_rank(error: Exception) -> bool:
    """Return whether an error only means that another rank is gone or does not answer: the cause
    lies in that rank."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def lost_rank_text(error: Exception) -> str:
    """Return the text of such an error, without the line of torch's source and the advice that gloo
    adds, and without what torch adds to an error of its hooks."""
    prefix = r"^(Got the following error when running the callback: \w+: )?(\[\S+:\d+\] )?"
    return re.sub(prefix, "", str(error).partition("\n")[0]).partition(". This is typically")[0]


def set_up(
    runner: Runner, local_rank: int = 0, local_world_size: int = 1, wanted: int = 1
) -> torch.device:
    """Set the number of threads of this process, and what its device needs; return the device. By
    default the process is the only rank. See `choose_device`."""
    device = choose_device(runner, local_rank, wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # On recent GPUs torch prefers cuDNN's attention, which builds a plan for each new batch
        # shape, forward and backward: 0.1 to 0.5 s each. The batches of a run have dozens of
        # shapes.
        torch.backends.cuda.enable_cudnn_sdp(False)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    if runner.threads is not None:
        torch.set_num_threads(runner.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores // local_world_size))
    return device


@contextmanager
def connect(
    runner: Runner,
    *,
    quiet: float = QUIET,
    meanwhile: AbstractContextManager[None] = nullcontext(),  # noqa: B008
) -> Iterator[Ranks]:
    """Join the process group if this process is one of several ranks, and leave the group at a good
    end.

    After an error the group is not left, because that may wait for a rank which in turn waits for
    this one. The process ends then, and its connections with it.

    `quiet`: seconds before a message names the ranks that are missing. `meanwhile`: context that is
    entered during the wait. Raises UserError when the environment describes an incomplete launch,
    RunError when ranks do not come.
    """
    launch = read_launch()
    local_rank, local_world_size = (
        (0, 1) if launch is None else (launch.local_rank, launch.local_world_size)
    )
    # When another program has launched the ranks, maybe on several machines, runner.devices counts
    # the ranks of all machines.
    wanted = runner.devices if launch is None else max(local_world_size, local_rank + 1)
    device = set_up(runner, local_rank, local_world_size, wanted)
    if launch is None:
        yield Ranks(0, 1, device)
        return
    rank, world_size = launch.rank, launch.world_size
    with meanwhile:
        store = meet(launch, runner.timeout, quiet)
    if launch.is_local:
        stay_local()
    # Ranks on GPUs exchange signals and texts, which lie in host memory, by gloo.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=runner.timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    yield Ranks(rank, world_size, device, launch.is_local, store=store)
    dist.destroy_process_group()
