"""The file formats that rows can be read from, by the ending of a file's name."""

from __future__ import annotations

from glob import glob
from pathlib import Path

FORMATS = ("parquet", "csv", "tsv", "jsonl", "json", "conll", "conllu", "txt")
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
ENDINGS = (*FORMATS, *(f"{text}.{packed}" for text in FORMATS[1:] for packed in COMPRESSIONS))
"""Endings of data files: a format, and for text formats also a compression."""
NAMED = (
    ".parquet, .csv, .tsv, .jsonl, .json, .conll, .conllu or .txt; text files also in .gz, .bz2, "
    ".xz or .zst after it"
)
"""The endings in words, for messages."""

TASK_FILES = (".yaml", ".yml")
"""Endings of task files."""


def ending(path: Path) -> str:
    """Return the ending of a file's name without the leading dot: one of ENDINGS, or an unknown
    one; empty for a path without a name, such as `.`."""
    if not path.name:
        return ""
    last = path.suffix.lower().removeprefix(".")
    before = path.with_suffix("").suffix.lower().removeprefix(".")
    return f"{before}.{last}" if last in COMPRESSIONS and before else last


def split_name(path: Path) -> str | None:
    """Return the name of a data file without its ending, or None if the ending is unknown."""
    return path.name[: -len(ending(path)) - 1] if ending(path) in ENDINGS else None


def is_pattern(file: str) -> bool:
    """Return whether the name of a task's rows is a pattern, such as `shards/*.jsonl`."""
    return bool(set("*?[") & set(file)) and not Path(file).exists()


def files_of(file: str) -> list[Path]:
    """Return the files that the rows of a split are read from, in the order of their rows: the one
    file, or sorted by name the files of known formats in a folder, or those that match a
    pattern."""
    if is_pattern(file):
        return sorted(Path(found) for found in glob(file, recursive=True))  # noqa: PTH207
    if Path(file).is_dir():
        return sorted(
            path
            for path in Path(file).iterdir()
            if ending(path) in ENDINGS and not path.name.startswith(".")
        )
    return [Path(file)]
