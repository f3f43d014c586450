"""The place of the YAML files of conf/ in every kind of install, and the meaning of paths that
users type."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import mtlcli
from mtlcli.errors import Problem, UserError


def conf_dir() -> Path:
    """Return the absolute path of the configuration files: `mtlcli/conf` in an installed wheel,
    else the checkout's `conf`."""
    package = Path(mtlcli.__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def default_cache() -> Path:
    """Return the folder for what is kept between commands: $MTL_CACHE, else ~/.cache/mtl. Encoded
    rows lie there where `data.cache_dir` is null.

    Raises UserError when there is no home folder.
    """
    try:
        return Path(os.environ.get("MTL_CACHE") or "~/.cache/mtl").expanduser()
    except RuntimeError as error:
        raise UserError(
            "there is no home folder to keep the store of encoded rows in",
            where="data.cache_dir",
            fix="give data.cache_dir=FOLDER, or set MTL_CACHE",
        ) from error


PATHS = (
    "run_dir",
    "resume",
    "init.from",
    "augmentation.teachers",
    "data.root",
    "data.cache_dir",
    "model.name",
    "tasks.*.source.hub",
    "tasks.*.source.files.*",
)
"""Keys of a configuration whose values can be paths."""

BELOW = "tasks.*.source.path"
"""Key whose value is a folder below `data.root`."""

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""The most bytes that file systems allow in one part of a path and in a whole path."""


def typed_path(text: str, where: str) -> Path:
    """Return the path that a user has typed for `where`. `~` is the home folder; relative paths
    start from the current folder.

    Raises UserError if the text is empty, if there is no such home folder, or if no file system
    could have the path.
    """
    if not text.strip():
        # Python takes an empty path for the current folder, which is hardly what the user means.
        raise UserError(
            "the path is empty",
            where=where,
            fix="write a path; a dot stands for the current folder",
        )
    shown = text if len(text) <= 60 else text[:57] + "..."
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"there is no home folder for '{shown}'", where=where, fix="write the path in full"
        ) from error
    if "\0" in text:
        raise UserError("a path has no null characters", where=where, fix="write another path")
    name = max(path.parts, key=lambda part: len(os.fsencode(part)), default="")
    for what, length, most in (
        ("name", len(os.fsencode(name)), LONGEST_NAME),
        ("path", len(os.fsencode(path)), LONGEST_PATH),
    ):
        if length > most:
            raise UserError(
                f"'{shown}': a {what} of {length} bytes is too long",
                where=where,
                fix=f"at most {most} bytes are possible",
            )
    return path


def expand_paths(values: dict[str, Any], at: tuple[str, ...] = ()) -> list[Problem]:
    """Replace `~` by the home folder in every path of a configuration, and return a problem for
    each path that is not possible."""
    problems: list[Problem] = []
    for key, value in values.items():
        place = (*at, str(key))
        where = ".".join(place)
        if isinstance(value, dict):
            problems += expand_paths(value, place)
        elif isinstance(value, list) and where in PATHS:
            # A list stands for several values of its key.
            each = [{key: item} for item in value]
            problems += [problem for one in each for problem in expand_paths(one, at)]
            values[key] = [one[key] for one in each]
        elif isinstance(value, str) and fnmatchcase(where, BELOW) and not value.strip():
            problems.append(
                Problem(
                    "the path is empty",
                    where,
                    "write the name of the folder below data.root, or null",
                )
            )
        elif isinstance(value, str) and any(fnmatchcase(where, pattern) for pattern in PATHS):
            try:
                path = str(typed_path(value, where))
                values[key] = path if value.startswith("~") else value
            except UserError as error:
                problems += error.problems
    return problems
