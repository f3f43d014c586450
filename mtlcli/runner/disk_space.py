"""Whether there is room for a run, asked before it begins: a full disk after a night of training is
found out too late."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli.config import Config
from mtlcli.disk import free, free_text, size_text, writing
from mtlcli.errors import UserError, count_of
from mtlcli.models.files import BackboneFiles
from mtlcli.tasks.base import TaskType

if TYPE_CHECKING:
    from mtlcli.models.multitask import MultiTaskModel

OTHER = 2**20
"""Bytes for the log, the rows of metrics and the other small files of a run."""
AROUND = 2**17
"""Bytes of a checkpoint that are no tensors: its state, its manifest, names, and blocks that are
not full."""


def check_place(run_dir: Path) -> None:
    """Raises UserError when no run folder can be made at a path, or a run that is there cannot go
    on: not writable, or no room at all.

    For this nothing of the run needs to be known. What is written stays nowhere.
    """
    place = next(
        folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists()
    )
    told = writing(
        "the run folder", run_dir, "or give another run_dir=", needed=OTHER, kind=UserError
    )
    with told, tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))
    _check(run_dir, OTHER, "", "")


def check_room(
    config: Config,
    tasks: dict[str, TaskType[Any]],
    files: BackboneFiles,
    run_dir: Path,
    *,
    saves: int,
    existing: int | None = None,
) -> None:
    """Raises UserError when the disk has no room for what a run writes, before anything is written.

    `saves`: how many checkpoints the run will write. `existing`: those that stand there when a run
    goes on; None: it is new.
    """
    # At most: the newest, the best, and the one being written, before the oldest goes.
    most = min(config.runner.keep + 2, (existing or 0) + saves)
    count = max(most - (existing or 0), min(saves, 1))
    each = checkpoint_size(config, tasks, files)
    backbone = (
        len(files.tokenizer.encode()) + len(json.dumps(files.architecture))
        if existing is None
        else 0
    )
    told = f" ({count_of(count, 'checkpoint')} of {size_text(each)})" if count else ""
    fewer = (
        " or keep fewer checkpoints: runner.keep=1" if config.runner.keep > 1 and count > 1 else ""
    )
    _check(run_dir, count * each + backbone + OTHER, told, fewer)


def checkpoint_size(config: Config, tasks: dict[str, TaskType[Any]], files: BackboneFiles) -> int:
    """Bytes of one checkpoint of a run: its model, and AdamW's two moments for every parameter."""
    model = without_numbers(config, tasks, files)
    return (
        sum(tensor.nbytes for tensor in model.state_dict().values())
        + 2 * sum(p.nbytes for p in model.parameters())
        + AROUND
    )


def without_numbers(
    config: Config, tasks: dict[str, TaskType[Any]], files: BackboneFiles
) -> MultiTaskModel:
    """A run's model with shapes and no numbers: milliseconds and no memory, even for a large
    one."""
    import torch

    from mtlcli.models.build import build_model

    # Building settles values of the config, hence the copy.
    with torch.device("meta"):
        return build_model(copy.deepcopy(config), tasks, files, load_weights=False)


def _check(run_dir: Path, needed: int, told: str, fewer: str) -> None:
    there = free(run_dir)
    if there is not None and there < needed:
        raise UserError(
            f"the disk has too little room: the run needs {size_text(needed)}{told}, and "
            f"{free_text(there)}",
            where=str(run_dir),
            fix=f"make room there, give run_dir= on another disk,{fewer}".rstrip(","),
        )
