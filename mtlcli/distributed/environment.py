"""The environment variables of a launcher that has started this process as one of several ranks.
This module does not import torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mtlcli.errors import Problem, UserError

OTHER_LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": ("srun", "SLURM_PROCID", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_SIZE": ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "PMI_SIZE": ("mpiexec", "PMI_RANK", "MPI_LOCALRANKID"),
}
"""Launchers whose variables torch does not read. Key: the variable with the number of tasks. Value:
the launcher's name and the variables with the rank and the local rank."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Launch:
    """The place of this process among the ranks of a launch."""

    rank: int
    """Number of this process, from 0."""
    world_size: int
    """Number of processes."""
    local_rank: int
    """Number of this process among those of this machine, from 0."""
    local_world_size: int
    """Number of processes on this machine."""
    address: str
    """Host name or address at which the ranks meet."""
    port: int
    """Port at which the ranks meet."""

    @property
    def is_local(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.local_world_size == self.world_size

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size} at {self.address}:{self.port}"


def read_launch() -> Launch | None:
    """Return the launch that RANK, WORLD_SIZE, MASTER_ADDR, ... describe; None when this process is
    a run by itself.

    Raises UserError, which names every variable that is malformed or missing, and UserError when
    another launcher has started several tasks without setting these variables.
    """
    problems: list[Problem] = []
    rank = _number("RANK", 0, None, problems)
    world_size = _number("WORLD_SIZE", 1, None, problems)
    if problems:
        raise UserError(problems)
    if world_size is None and rank is None:
        _refuse_other_launchers()
    if world_size is None or world_size == 1:
        return None
    if rank is None:
        problems.append(_half("RANK", world_size))
    elif rank >= world_size:
        what = (
            f"a launch of {world_size} ranks (WORLD_SIZE={world_size}) has ranks 0 to "
            f"{world_size - 1}"
        )
        problems.append(Problem(what, f"RANK={rank}", _unset("RANK", "WORLD_SIZE")))
    address = os.environ.get("MASTER_ADDR", "")
    if not address:
        problems.append(_half("MASTER_ADDR", world_size))
    port = _number("MASTER_PORT", 1, 65535, problems)
    if port is None and "MASTER_PORT" not in os.environ:
        problems.append(_half("MASTER_PORT", world_size))
    together = address in LOOPBACK
    local_world_size = _number("LOCAL_WORLD_SIZE", 1, world_size, problems)
    local_rank = _number("LOCAL_RANK", 0, (local_world_size or world_size) - 1, problems)
    if problems or rank is None or port is None:
        raise UserError(problems)
    if local_world_size is None:
        local_world_size = world_size if together else 1
    if local_rank is None:
        local_rank = rank if local_world_size == world_size else 0
    return Launch(rank, world_size, local_rank, local_world_size, address, port)


def _number(name: str, least: int, most: int | None, problems: list[Problem]) -> int | None:
    """Return the value of a variable; None when the variable is not set or malformed. A malformed
    variable is added to the problems."""
    text = os.environ.get(name)
    if text is None:
        return None
    if (
        re.fullmatch(r"[0-9]{1,9}", text)
        and least <= int(text)
        and (most is None or int(text) <= most)
    ):
        return int(text)
    allowed = f"from {least}" + ("" if most is None else f" to {most}")
    problems.append(
        Problem(f"the value is not a whole number {allowed}", f"{name}={text}", _unset(name))
    )
    return None


def _half(missing: str, world_size: int) -> Problem:
    what = f"the variable announces {world_size} ranks, but {missing} is not set"
    return Problem(what, f"WORLD_SIZE={world_size}", _unset("WORLD_SIZE"))


def _unset(*names: str) -> str:
    return (
        f"unset it ({'; '.join(f'unset {name}' for name in names)}), or start the ranks with "
        "torchrun"
    )


def _refuse_other_launchers() -> None:
    for variable, (launcher, rank, local_rank) in OTHER_LAUNCHERS.items():
        size = os.environ.get(variable, "1")
        if size == "1":
            continue
        what = (
            f"{launcher} has started {size} tasks, and RANK and WORLD_SIZE are not set: each "
            "task would be a run of its own"
        )
        fix = (
            f"if the tasks are ranks of one run, set RANK=${rank}, WORLD_SIZE=${variable} and "
            f"LOCAL_RANK=${local_rank} in each, and "
            "LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun does; if each is a run of "
            f"its own, type unset {variable}"
        )
        raise UserError(what, f"{variable}={size}", fix)
