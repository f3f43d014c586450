"""A run whose ranks torchrun, SLURM or another launcher has started: rank 0 makes the folder, then
all ranks read it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.config.section import replaced
from mtlcli.distributed.environment import read_launch
from mtlcli.distributed.process_group import Ranks, connect, is_lost_rank, lost_rank_text
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Interrupted, MtlError, RunError
from mtlcli.rundir.ending import held_to_the_end
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.job import Job, average_of, begin, join


def run_as_rank(
    config: Config, run_dir: Path, command: list[str], numbered: bool, resumes: Path | None
) -> float:
    """Carry out a run as one of its ranks and return its average score, as `job.run` does."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    with (
        _before_the_run(),
        Interrupt() as interrupt,
        interrupt.leaving_with(os.getppid()) if by_torchrun else nullcontext(),
        connect(config.runner, meanwhile=interrupt.at_once()) as ranks,
    ):
        # The launcher decides the number of ranks; a resumed run must have as many as before.
        config = replaced(config, {"runner.devices": ranks.world_size})
        make = partial(begin, config, run_dir, command, numbered, resumes, interrupt)
        folder, values = _begin_together(ranks, make)
        held = held_to_the_end(folder) if ranks.is_main else nullcontext()
        with held, _errors_reported(ranks, folder):
            return average_of(join(folder, values, ranks, interrupt))


@contextmanager
def _before_the_run() -> Iterator[None]:
    """Explain the loss of another rank before the run begins; later losses are explained
    already."""
    try:
        yield
    except MtlError:
        raise
    except Exception as error:
        if not is_lost_rank(error):
            raise
        what = f"lost another rank before the run began: {lost_rank_text(error)}"
        fix = "the message of that rank, or of the launcher, says why; then start the run again"
        raise RunError(what, str(read_launch()), fix) from error


def _begin_together(
    ranks: Ranks, make: Callable[[], Job]
) -> tuple[RunFolder, dict[str, Any] | None]:
    """Begin the run on rank 0. Return on every rank the run folder and the fields of the
    Resumption, if the run is resumed; rank 0 holds the folder lock.

    Raises what rank 0 has raised there, Interrupted or RunError on the others.
    """
    job: Job | None = None
    failure: MtlError | None = None
    place: dict[str, Any] = {}
    if ranks.is_main:
        try:
            job = make()
            place = {
                "folder": str(job.folder.path.absolute()),
                "resumption": asdict(job.resumption) if job.resumption else None,
            }
        except MtlError as error:
            failure = error
            place = {"interrupted": error.number} if isinstance(error, Interrupted) else {}
    place = ranks.broadcast_json(place)
    if failure is not None:
        raise failure
    if "interrupted" in place:
        raise Interrupted(place["interrupted"])
    if not place:
        raise RunError("rank 0 could not start the run; its message says why")
    return job.folder if job else RunFolder(Path(place["folder"])), place["resumption"]


@contextmanager
def _errors_reported(ranks: Ranks, folder: RunFolder) -> Iterator[None]:
    """Report an error of this rank to the others. After the loss of another rank, raise the error
    that it has reported, if any."""
    try:
        yield
    except Interrupted:
        raise
    except MtlError as error:
        ranks.report_error(error)
        raise
    except Exception as error:
        if not is_lost_rank(error):
            raise
        if (cause := ranks.error_of_another_rank()) is not None:
            raise cause from error
        what = f"rank {ranks.rank} lost another rank: {lost_rank_text(error)}"
        fix = f"the launcher says which and why; {folder.resume_advice()}"
        raise RunError(what, str(folder.path), fix) from error
