"""Files and folders that a configuration names and that are not there, or are something else."""

from __future__ import annotations

from glob import glob
from pathlib import Path

from mtlcli.config import Config
from mtlcli.config.formats import ENDINGS, NAMED, ending
from mtlcli.disk import obstacle
from mtlcli.errors import Problem
from mtlcli.registry import nearest

FILES_NAMED = 20
"""The largest number of files that a message names."""
ONE_FILE = "join the files into one, with a single header line"


def missing_files(config: Config) -> list[Problem]:
    """Return a problem for each file and folder that the config names and that cannot be used.
    Relative paths start from the current folder."""
    problems = []
    if config.data.root is not None and not Path(config.data.root).is_dir():
        problems.append(
            Problem(
                f"there is no folder '{config.data.root}'",
                "data.root",
                nearest_path(Path(config.data.root)),
            )
        )
    cache = Path(config.data.cache_dir) if config.data.cache_dir is not None else None
    # An existing folder may already hold all that is needed, even if nothing can be written to it.
    if (
        cache is not None
        and not cache.is_dir()
        and (why := obstacle(cache, folder=True)) is not None
    ):
        problems.append(
            Problem(
                f"cannot be written: {why}", "data.cache_dir", "give a folder that you can write to"
            )
        )
    for name, task in config.tasks.items():
        for split, file in (task.source.files or {}).items():
            where, path = f"tasks.{name}.source.files.{split}", Path(file)
            if path.is_dir():
                problems.append(
                    Problem(
                        f"'{file}' is a folder, and a split is read from one file",
                        where,
                        _inside(path, split),
                    )
                )
            elif "://" in file:
                what = f"'{file}' is an address, and rows are read from files"
                problems.append(Problem(what, where, "download it, and name the file here"))
            elif set("*?[") & set(file) and not path.exists():
                problems.append(
                    Problem(
                        f"'{file}' is a pattern, and a split is read from one file",
                        where,
                        _matching(file),
                    )
                )
            elif ending(path) not in ENDINGS:
                problems.append(
                    Problem(
                        f"'{file}' is in no known format", where, f"its name must end in {NAMED}"
                    )
                )
            elif path.exists() and not path.is_file():
                fix = "write its content to a file, which can be read more than once"
                problems.append(Problem(f"'{file}' is not a regular file", where, fix))
            elif not path.is_file():
                problems.append(Problem(f"there is no file '{file}'", where, nearest_path(path)))
    return problems


def missing_model(config: Config) -> list[Problem]:
    """Return what is wrong with a `model.name` that can only be a folder on this machine."""
    name = config.model.name
    if (
        name is None
        or name.startswith("package:")
        or not (name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/"))
    ):
        return []
    path, where = Path(name), f"model.name={name}"
    if "://" in name:
        fix = (
            "give the name alone, as in bert-base-uncased or google/electra-small-discriminator, "
            "or a folder"
        )
        return [Problem("an address is not the name of a model", where, fix)]
    if path.is_file():
        return [
            Problem(
                "the path is a file, and a model is a folder",
                where,
                f"give the folder that holds it: model.name={path.parent}",
            )
        ]
    return (
        []
        if path.is_dir()
        else [Problem(f"there is no folder '{name}'", where, nearest_path(path))]
    )


def _inside(folder: Path, split: str) -> str:
    """Return the fix for a folder named instead of a file: the most likely file in it."""
    files = sorted(path.name for path in folder.iterdir() if ending(path) in ENDINGS)
    close = next((name for name in files if name.startswith(split)), files[0] if files else None)
    return f"did you mean '{folder / close}'?" if close else f"name a file that ends in {NAMED}"


def _matching(pattern: str) -> str:
    """Return the fix for a pattern named instead of a file."""
    matching = sorted(glob(pattern, recursive=True))  # noqa: PTH207
    if len(matching) == 1:
        return f"did you mean '{matching[0]}'?"
    named = ", ".join(matching[:FILES_NAMED]) + (", ..." if len(matching) > FILES_NAMED else "")
    return f"{ONE_FILE}; the pattern matches {named or 'no file'}"


def nearest_path(path: Path) -> str:
    """Return the fix for a path that does not exist: the nearest name in the same folder."""
    if not path.parent.is_dir():
        return f"there is no folder '{path.parent}' either" + (
            "" if path.is_absolute() else f"; relative paths start from {Path.cwd()}"
        )
    close = nearest(path.name, [other.name for other in path.parent.iterdir()])
    if close:
        return f"did you mean '{path.parent / close}'?"
    return f"'{path.parent}' has nothing of a similar name" + (
        "" if path.is_absolute() else f"; relative paths start from {Path.cwd()}"
    )
