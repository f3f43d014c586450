"""Files and folders that a configuration names and that are not there, or are something else."""

from __future__ import annotations

from pathlib import Path

from mtlcli.config import Config
from mtlcli.config.formats import ENDINGS, NAMED, ending, files_of, is_pattern, split_name
from mtlcli.disk import obstacle
from mtlcli.errors import Problem
from mtlcli.registry import nearest

SPLITS = ("train", "validation", "valid", "val", "dev", "test")
"""Usual names of splits, which a folder of shards does not hold as files."""
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
                problems += _folder(file, split, where)
            elif "://" in file:
                what = f"'{file}' is an address, and rows are read from files"
                problems.append(Problem(what, where, "download it, and name the file here"))
            elif is_pattern(file):
                problems += _pattern(file, where)
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


def missing_run(config: Config) -> list[Problem]:
    """Return what is wrong with the paths of `init.from` and of teachers, which a run that goes on
    (`resume=auto`) does not need."""
    if config.resume == "auto":
        return []
    paths = [("augmentation.teachers", path) for path in config.augmentation.other_runs()]
    if config.init.from_ is not None:
        paths.append(("init.from", config.init.from_))
    return [
        Problem(f"there is no folder '{path}'", where, nearest_path(Path(path)))
        for where, path in paths
        if not Path(path).is_dir()
    ]


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


def _folder(folder: str, split: str, where: str) -> list[Problem]:
    """Return a problem if a folder that is named instead of a file is no folder of shards: it holds
    no rows, or a file for each split."""
    files = files_of(folder)
    if not files:
        what = f"the folder '{folder}' holds no file of rows"
        return [Problem(what, where, f"their names end in {NAMED}")]
    alone = [path for path in files if split_name(path) in (*SPLITS, split)]
    if alone:
        close = next((path for path in alone if split_name(path) == split), alone[0])
        what = f"'{folder}' is a folder with a file for each split, not the rows of one"
        return [Problem(what, where, f"did you mean '{close}'?")]
    return []


def _pattern(pattern: str, where: str) -> list[Problem]:
    """Return a problem if a pattern matches no file of rows, or others too."""
    files = files_of(pattern)
    if not files:
        return [Problem(f"no file matches '{pattern}'", where, nearest_path(Path(pattern).parent))]
    other = [path for path in files if ending(path) not in ENDINGS or not path.is_file()]
    if other:
        what = f"'{pattern}' matches '{other[0]}', which is no file of rows"
        return [Problem(what, where, f"the names of files of rows end in {NAMED}")]
    return []


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
