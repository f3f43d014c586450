"""Which files rows can be read from, by their names."""

from __future__ import annotations

from pathlib import Path

FORMATS = ("parquet", "csv", "tsv", "jsonl", "json")
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
ENDINGS = (*FORMATS, *(f"{text}.{packed}" for text in FORMATS[1:] for packed in COMPRESSIONS))
"""What the name of a file of rows can end in: a format, and for text how the file is compressed."""
NAMED = ".parquet, .csv, .tsv, .jsonl or .json; text files also in .gz, .bz2, .xz or .zst after it"
"""The same in words."""


def ending(path: Path) -> str:
    """What the name of a file ends in, without the leading dot: one of ENDINGS, or an unknown
    one."""
    last = path.suffix.lower().removeprefix(".")
    before = path.with_suffix("").suffix.lower().removeprefix(".")
    return f"{before}.{last}" if last in COMPRESSIONS and before else last


def split_name(path: Path) -> str | None:
    """The name of a file without its ending, when rows can be read from it."""
    return path.name[: -len(ending(path)) - 1] if ending(path) in ENDINGS else None
