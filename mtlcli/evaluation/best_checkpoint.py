"""The checkpoint of a run that is used, read into memory, and the config of its run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mtlcli import commands
from mtlcli.config import Config
from mtlcli.config.crosscheck.tasks import untyped_code
from mtlcli.config.snapshot import load_config
from mtlcli.disk import sha256
from mtlcli.errors import UserError
from mtlcli.rundir import checkpoint
from mtlcli.rundir.differences import differing_config, differing_files

if TYPE_CHECKING:
    from torch import Tensor

ATTEMPTS = 5
"""The number of attempts to read a checkpoint while a run deletes old ones."""


@dataclass
class Found:
    """A checkpoint and the run folder to which it belongs."""

    run: Path
    """The run folder."""
    checkpoint: checkpoint.Checkpoint
    """The checkpoint, which has verified."""
    tensors: dict[str, Tensor]
    """The model tensors of the checkpoint."""
    config: str | None
    """The text of the config that the checkpoint was saved with; None for format 1, which does not
    have it."""
    notices: list[str]
    """Lines about checkpoints that had to be skipped."""

    def record(self) -> dict[str, str]:
        """Return what environment.json of another run says about the checkpoint that it used."""
        folder = self.checkpoint.folder
        return {
            "run": str(self.run.absolute()),
            "checkpoint": folder.name,
            "manifest": sha256(folder / "manifest.json"),
        }


def find(path: Path) -> Found:
    """Return the checkpoint that results.json describes, or the checkpoint in the folder `path`,
    with its model in memory.

    A run that is still training deletes checkpoints: when the folders change during the reading,
    the search starts again. Raises UserError when `path` is neither a run folder nor a checkpoint.
    """
    run = checkpoint.run_of(path)
    if run != path:
        return _whole(run, checkpoint.read(path), [])
    for attempt in range(1, ATTEMPTS + 1):
        there = checkpoint.folders(run / "checkpoints")
        try:
            return _whole(run, *_best(run))
        except (UserError, FileNotFoundError):
            if attempt == ATTEMPTS or checkpoint.folders(run / "checkpoints") == there:
                raise
    raise AssertionError("the last attempt returns or raises")


def config_of(found: Found, overrides: list[str], say: Callable[[str], None]) -> Config:
    """Return the config of a checkpoint's run with the overrides.

    Raises UserError when a file of the run is not what the checkpoint was saved with; a difference
    that the run's key `allow` names is passed to `say`.
    """
    config = load_config(found.run / "config.yaml", overrides)
    if problems := untyped_code(config, overrides):
        raise UserError(problems)
    checks = (
        differing_files(found.checkpoint, found.run, config.allow),
        differing_config(found.checkpoint, found.config, found.run, config.allow),
    )
    if problems := [problem for refused, _ in checks for problem in refused]:
        raise UserError(problems)
    for line in (line for _, lines in checks for line in lines):
        say(line)
    return config


def _whole(run: Path, found: checkpoint.Checkpoint, notices: list[str]) -> Found:
    """Read everything that an evaluation needs from a checkpoint at once, because its folder may be
    deleted later."""
    config = None if found.config is None else found.config.read_text(encoding="utf-8")
    return Found(run, found, found.tensors("model.safetensors"), config, notices)


def _best(run: Path) -> tuple[checkpoint.Checkpoint, list[str]]:
    """Return the best checkpoint of a run, verified, and lines about damaged checkpoints that are
    newer than the newest usable one."""
    newest, notices = checkpoint.newest(run / "checkpoints")
    best, reported = newest.best_step, _step_of_results(run)
    # results.json may know a better step than the checkpoint: its scores are written after a
    # checkpoint of the same step, and a checkpoint of format 1 may never have received them.
    if reported is not None and reported != best:
        if reported == newest.step or (
            newest.around is None
            and checkpoint.fault(run / "checkpoints" / f"step_{reported:08d}") is None
        ):
            best = reported
        else:
            notices.append(
                f"results.json is about step {reported}, but {newest.folder.name} says that step "
                f"{best} was the best, and it is taken"
            )
    if best in (None, newest.step):
        return newest, notices
    folder = run / "checkpoints" / f"step_{best:08d}"
    try:
        return checkpoint.verified(folder), notices
    except ValueError as error:
        # Another checkpoint would have other scores than the run's results.json.
        raise UserError(
            f"the run's best checkpoint cannot be used: {error}",
            where=str(folder),
            fix=f"the newest: {commands.evaluate(newest.folder)}",
        ) from error


def _step_of_results(run: Path) -> int | None:
    """Return the step that results.json describes; None when the file cannot be read or has no
    valid step."""
    try:
        step = json.loads((run / "results.json").read_bytes())["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if type(step) is int and 0 <= step < 10**8 else None
