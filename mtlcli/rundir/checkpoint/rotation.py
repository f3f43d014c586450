"""The rotation of checkpoints: which ones stay. A checkpoint is deleted only after its successor is
known to be good, and never when it could not be read."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from pathlib import Path

from mtlcli.errors import UserError
from mtlcli.rundir.checkpoint import DAMAGED, folders, step_of, verified

ASIDE = "set_aside_"
"""Start of the name of a checkpoint from an attempt that was given up. Such checkpoints are deleted
when the next one is saved."""
_ASIDE = re.compile(rf"{ASIDE}step_(\d{{8}})")
_LEFT = re.compile(r"\.(step_\d{8})\.\d+\.(tmp|old|gone)")


def retain(checkpoints: Path, step: int, count: int, *, best: int | None) -> None:
    """Delete the checkpoint folders up to `step`, except for the newest `count` of them and for
    `best`, which stays whatever its age."""
    earlier = [folder for folder in folders(checkpoints) if step_of(folder) <= step]
    for folder in earlier[:-count]:
        if step_of(folder) != best:
            # Rename the folder first: a half deleted folder must not look like a checkpoint.
            gone = folder.with_name(f".{folder.name}.{os.getpid()}.gone")
            folder.rename(gone)
            shutil.rmtree(gone)


def go_back(checkpoints: Path, step: int, count: int, *, best: int | None) -> list[str]:
    """Make the checkpoint of a step the newest again: set later ones aside, and retain `count` of
    the others and `best`. Return lines about what was set aside or could not be deleted."""
    # The earlier process may have been killed between a save and the deletion of the checkpoints
    # that the save replaced.
    lines = drop_aside(checkpoints, up_to=step)
    for place in set_aside(checkpoints, step):
        name = place.name.removeprefix(ASIDE)
        lines.append(
            f"{name} is of a later step: it is renamed to {place.name}, and deleted when the "
            "next checkpoint is saved"
        )
    retain(checkpoints, step, count, best=best)
    return lines


def set_aside(checkpoints: Path, step: int) -> list[Path]:
    """Rename the checkpoint folders of later steps to `set_aside_...`, and return where they are
    now."""
    moved = []
    for folder in folders(checkpoints):
        if step_of(folder) > step:
            # Stay in the same parent folder: a checkpoint that cannot be read or written could not
            # be moved into another one.
            place = folder.with_name(f"{ASIDE}{folder.name}")
            for number in itertools.count(2):
                if not place.exists():
                    break
                place = folder.with_name(f"{ASIDE}{folder.name}_{number}")
            folder.rename(place)
            moved.append(place)
    return moved


def are_aside(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders that are set aside."""
    return sorted(
        path
        for path in checkpoints.glob(f"{ASIDE}step_*")
        if path.is_dir() and not path.is_symlink()
    )


def waiting(checkpoints: Path, step: int) -> list[str]:
    """Return a line for each checkpoint of a later step that is set aside."""
    return [
        f"{path.name} is deleted when the next checkpoint is saved"
        for path in are_aside(checkpoints)
        if step_aside(path) > step
    ]


def step_aside(folder: Path) -> int:
    """Return the step of a checkpoint folder that is set aside."""
    found = _ASIDE.match(folder.name)
    return int(found[1]) if found else 0


def drop_aside(checkpoints: Path, up_to: int | None = None) -> list[str]:
    """Delete the checkpoint folders that are set aside, except for those that cannot be read.
    Return a line for each folder that was kept or could not be deleted.

    `up_to`: delete only checkpoints of this step and earlier ones.
    """
    kept = []
    for folder in are_aside(checkpoints):
        if up_to is not None and step_aside(folder) > up_to:
            continue
        try:
            _read_a_byte_of_each(folder)
            shutil.rmtree(folder)
        except OSError as error:
            kept.append(
                f"{folder} is kept: {Path(error.filename or folder).name}: {error.strerror}"
            )
    return kept


def _read_a_byte_of_each(folder: Path) -> None:
    """Raise OSError when a file of a folder cannot be read."""
    for file in folder.iterdir():
        try:
            with file.open("rb") as stream:
                stream.read(1)
        except OSError as error:
            if error.errno not in DAMAGED:
                raise


def clean(checkpoints: Path) -> None:
    """Delete the temporary folders of writers and deleters that were killed. Only the process that
    holds the folder lock may call this."""
    for path in list(checkpoints.iterdir()) if checkpoints.is_dir() else []:
        found = _LEFT.fullmatch(path.name)
        if found is None or not path.is_dir() or path.is_symlink():
            continue
        target = checkpoints / found[1]
        if found[2] == "old" and not target.exists():
            # This checkpoint had made room for a newer one, which never reached its place.
            path = path.rename(target)  # noqa: PLW2901
            if not _is_damaged(path):
                continue
        shutil.rmtree(path)


def _is_damaged(folder: Path) -> bool:
    try:
        verified(folder)
    except ValueError:
        return True
    except UserError:  # The disk cannot read the folder now.
        return False
    return False
