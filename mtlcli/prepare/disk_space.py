"""The check of the disk space before a run begins: a user should not learn of a full disk after a
night of training."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mtlcli.config import Config
from mtlcli.disk import free, free_text, size_text, writing
from mtlcli.errors import UserError, count_of
from mtlcli.models.files import BackboneFiles
from mtlcli.tasks.base import TaskType

OTHER = 2**20
"""The number of bytes for the log, the metrics rows and the other small files of a run."""
AROUND = 2**17
"""The number of bytes of a checkpoint beside its tensors: state, manifest, names, and blocks that
are not full."""


def check_writable(run_dir: Path, named: str = "run_dir=") -> None:
    """Check that a run folder can be made or used at a path. Raises UserError when the place is not
    writable or has no disk space at all. `named`: how the user names another folder.

    The check needs to know nothing about the run. Its test file is deleted again.
    """
    place = next(
        folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists()
    )
    reporting = writing(
        "the run folder", run_dir, f"or give another {named}", needed=OTHER, kind=UserError
    )
    with reporting, tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))
    _check(run_dir, OTHER, named=named)


def check_disk_space(
    config: Config,
    tasks: dict[str, TaskType[Any]],
    files: BackboneFiles,
    run_dir: Path,
    *,
    saves: int,
    existing: int | None = None,
) -> None:
    """Check the disk space for everything that a run writes, before anything is written. Raises
    UserError when it is too small.

    `saves`: the number of checkpoints that the run will write. `existing`: the number of
    checkpoints in the folder of a resumed run; None: the run is new.
    """
    # Besides the `keep` newest, the best checkpoint stays, and the oldest is deleted only after the
    # next one is written.
    most = min(config.runner.keep + 2, (existing or 0) + saves)
    count = max(most - (existing or 0), min(saves, 1))
    each = checkpoint_size(config, tasks, files)
    backbone = (
        len(files.tokenizer.encode()) + len(json.dumps(files.architecture))
        if existing is None
        else 0
    )
    detail = f" ({count_of(count, 'checkpoint')} of {size_text(each)})" if count else ""
    fewer = "keep fewer checkpoints: runner.keep=1" if config.runner.keep > 1 and count > 1 else ""
    _check(run_dir, count * each + backbone + OTHER, detail, fewer)


def checkpoint_size(config: Config, tasks: dict[str, TaskType[Any]], files: BackboneFiles) -> int:
    """Return the number of bytes of one checkpoint of a run: its model, AdamW's two moments for
    every parameter, and what a weighting keeps for each task and shared parameter."""
    from mtlcli.models.build import without_numbers

    model = without_numbers(config, tasks, files)
    kept = len(tasks) * model.parameter_counts()["shared"] if config.weighting.keeps_rows else 0
    return (
        sum(tensor.nbytes for tensor in model.state_dict().values())
        + 2 * sum(p.nbytes for p in model.parameters())
        + 4 * kept
        + AROUND
    )


def _check(
    run_dir: Path, needed: int, detail: str = "", fewer: str = "", named: str = "run_dir="
) -> None:
    there = free(run_dir)
    if there is not None and there < needed:
        *ways, last = [
            "make room there",
            f"give {named} on another disk",
            *([fewer] if fewer else []),
        ]
        raise UserError(
            f"the disk has too little space: the run needs {size_text(needed)}{detail}, and "
            f"{free_text(there)}",
            where=str(run_dir),
            fix=f"{', '.join(ways)}, or {last}",
        )
