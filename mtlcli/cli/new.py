"""The verb `mtl new task FILE`, which writes a task file for a file of rows. It asks nothing, and
imports no torch."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from mtlcli import commands
from mtlcli.cli.groups import paths_of
from mtlcli.cli.parser import Parser
from mtlcli.config.formats import ENDINGS, NAMED, TASK_FILES, ending, files_of, split_name
from mtlcli.config.missing import nearest_path
from mtlcli.config.paths import typed_path
from mtlcli.errors import UserError, count_of

HELP = """\
Write a task file for a file of rows, and say what was guessed.

usage: mtl new task FILE [--to NAME.yaml]

  mtl new task reviews.csv                   writes reviews.yaml into the current folder
  mtl new task data/train.jsonl --to my.yaml a file dev, validation or test beside it is used, too
  mtl new task 'shards/*.parquet'            several files, or a folder of them

FILE: csv, tsv, jsonl, json, parquet, CoNLL, CoNLL-U or plain text; text also compressed. The task
file says in comments why the type, the columns and the labels were chosen and what else they could
be. Nothing is overwritten.
"""

VALIDATION = ("validation", "valid", "val", "dev", "devel")
SMALL = 50
"""Number of rows below which a fifth of them is kept for validation, and not a tenth."""
WIDTH = 78
LOOKED_AT_SIZE = 1 << 28
"""The most bytes of several files that are looked at; the first file is in any case."""


def new_main(argv: list[str]) -> int:
    """Run `mtl new` and return the exit code."""
    parser = Parser(prog="mtl new", add_help=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--to", type=partial(typed_path, where="--to"))
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.help:
        print(HELP, end="")
        return 0
    words = arguments.words
    if not words or words[0] != "task":
        what = f"mtl new makes a task, not '{words[0]}'" if words else "what is to be made?"
        raise UserError(what, "mtl new", "type mtl new task FILE")
    if len(words) != 2:
        found = f"found {len(words) - 1}" if words[1:] else "none is given"
        raise UserError(f"one file of rows is needed, and {found}", "FILE", "mtl new task FILE")
    file = str(typed_path(words[1], "FILE"))
    to: Path = arguments.to or Path(f"{_task_name(file)}.yaml")
    if to.suffix not in TASK_FILES:
        advised = shlex.quote(str(to.with_suffix(".yaml")))
        raise UserError(f"'{to}' is not the name of a task file", "--to", f"type --to {advised}")
    if to.exists():
        raise UserError(
            "the file exists and is not overwritten",
            str(to),
            "write to another file with --to NAME.yaml, or delete it first",
        )
    text, told = task_file(file, to.parent)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    print(f"{to}: {told[0]}")
    for line in told[1:]:
        print(f"  {line}")
    if to.stem in paths_of("task"):
        print(
            f"  a built-in task is named {to.stem}, too: both in one run (task=[...]) are refused,"
        )
        print("  unless this file begins with a line such as: # @package tasks.my_" + to.stem)
    shown = shlex.quote(str(to))
    print("look at it, change what is wrong, then type")
    print(f"  mtl check {shown}")
    print(f"  mtl train {commands.setting('task', to)} model=tiny")
    sys.stdout.flush()
    return 0


def _task_name(file: str) -> str:
    """Return a task's name for a file of rows: the file's own, with other characters for those
    that a name cannot have."""
    path = Path(file)
    if set("*?[") & set(path.name) or (split_name(path) in ("train", *VALIDATION, "data")):
        path = Path(os.path.abspath(path)).parent  # noqa: PTH100 (a pattern is no path)
    stem = split_name(path) or path.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")
    return name if re.match(r"[A-Za-z]", name) else f"task_{name}".rstrip("_")


def task_file(file: str, folder: Path) -> tuple[str, list[str]]:
    """Return the text of a task file for a file of rows, and what was guessed, in words. `folder`:
    the folder in which the task file will be. Raises UserError when the rows cannot be read, or no
    task can be guessed."""
    from mtlcli.prepare.guess import guess_task

    files = _files(file)
    looked_at = _first(files)
    table, header = _read(file, looked_at)
    guess = guess_task(table)
    splits = _other_splits(files)
    told = [f"{guess.type}, because {guess.why}"]
    many = "" if len(files) == 1 else f" ({len(files)} files)"
    if len(looked_at) < len(files):
        many = f" (the first {len(looked_at)} of {len(files)} files; the others were not looked at)"
        told.append(f"only the first {len(looked_at)} of {len(files)} files were looked at")
        # The other files may have more of them; train has them all.
        guess.labels = None
    lines = [
        f"# {count_of(len(table), 'row')} of {Path(file).name}{many}",
        "# Written by mtl new. Everything here is a guess: correct what is wrong. Lines that begin",
        "# with # are comments, some of them alternatives.",
    ]
    lines += _with_comment(f"type: {guess.type}", guess.why)
    lines += [f"# {each}" for each in guess.types]
    lines += ["source:", "  files:"]
    for split, each in {"train": file, **splits}.items():
        relative = os.path.relpath(each, folder or Path())
        lines += [f"    {split}: {_scalar(relative if not Path(each).is_absolute() else each)}"]
    if header is not None:
        lines += _with_comment(
            f"  header: {_flow(header)}", "the first line is a row; these names are made up"
        )
        told.append("the first line is a row, so the columns got names")
    lines += _splits(splits, len(table), guess, table)
    if "validation" not in splits:
        told.append("validation: rows of the file are kept for it (splits.hold_out)")
    lines.append("columns:")
    for key, column in guess.columns.items():
        value = _flow(column) if isinstance(column, list) else _scalar(column)
        lines += _with_comment(f"  {key}: {value}", guess.reasons.get(key, ""))
        told.append(f"{key}: {value}" + (f", {why}" if (why := guess.reasons.get(key)) else ""))
        for other in guess.others.get(key, [])[:5]:
            lines.append(f"  # {key}: {_scalar(other)}")
    for key in guess.others.keys() - guess.columns.keys():
        for other in guess.others[key][:5]:
            lines.append(f"  # {key}: {_scalar(other)}")
    if guess.labels:
        lines += _with_comment(
            f"labels: {_flow(guess.labels)}", "the values found; their order gives the ids"
        )
        told.append(f"labels: {_shortened(_flow(guess.labels))}")
    for key, value in guess.settings.items():
        lines += _with_comment(f"{key}: {_scalar(value)}", guess.reasons.get(key, ""))
        told.append(f"{key}: {_scalar(value)}, {guess.reasons.get(key, '')}".rstrip(", "))
    return "\n".join(lines) + "\n", told


def _files(file: str) -> list[Path]:
    """Return the files that the rows lie in. Raises UserError when there are none."""
    files = files_of(file)
    if not files:
        raise UserError("there are no files of rows", file, f"their names end in {NAMED}")
    for path in files:
        if not path.exists():
            raise UserError("there is no such file", file, nearest_path(path))
    return files


def _first(files: list[Path]) -> list[Path]:
    """Return the first of several files, up to LOOKED_AT_SIZE bytes together."""
    ends = itertools.accumulate(path.stat().st_size for path in files)
    return files[: max(1, sum(end <= LOOKED_AT_SIZE for end in ends))]


def _read(file: str, files: list[Path]) -> tuple[Any, list[str] | None]:
    """Return the rows with all columns, and names for the columns where the file has no header."""
    from mtlcli.data.magic import LOOKED_AT, real_kind
    from mtlcli.data.read import read_file
    from mtlcli.data.shards import read_shards

    if ending(files[0]) not in ENDINGS:
        with files[0].open("rb") as opened:
            head = opened.read(LOOKED_AT)
        if (problem := real_kind(head, files[0])) is not None:
            raise UserError(problem)
    header = _made_up_header(files[0])
    if ending(files[0]).startswith("txt"):
        _refuse_columns(files[0])
    if files == [Path(file)]:
        return read_file(files[0], "train", None, header), header
    return read_shards(files, file, "train", None, header), header


def _refuse_words(path: Path) -> None:
    """Raise UserError if a file of plain text has a word and its tags on each line, and empty lines
    between sentences."""
    from mtlcli.data.unpack import text_bytes

    text = text_bytes(path).decode("utf-8-sig", errors="replace")
    lines = [line.split() for line in text.splitlines()[:1000]]
    while lines and not lines[-1]:
        lines.pop()
    fields = [line for line in lines if line]
    widths = {len(line) for line in fields}
    tags = {line[-1] for line in fields}
    tagged = len(tags) <= len(fields) // 2 and all(
        re.fullmatch(r"[A-Z]+(-\S+)?", tag) for tag in tags
    )
    if tagged and len(fields) < len(lines) and len(widths) == 1 and 1 not in widths:
        new = f"{path.name[: -len(ending(path)) - 1]}.conll"
        raise UserError(
            "each line has a word and its tags, with empty lines between sentences, and a .txt "
            "file has one text on each line",
            str(path),
            f"let its name end in .conll: mv {shlex.quote(path.name)} {shlex.quote(new)}",
        )


def _refuse_columns(path: Path) -> None:
    """Raise UserError if a file of plain text has the same number of tabs in each line, or a word
    and its tags."""
    from mtlcli.data.read import first_rows

    widths = {len(row) for row in first_rows(path, "tsv")}
    _refuse_words(path)
    if len(widths) == 1 and 1 not in widths:
        new = f"{path.name[: -len(ending(path)) - 1]}.tsv"
        raise UserError(
            f"each line has {widths.pop()} fields with tabs between them, and a .txt file has one "
            "text on each line",
            str(path),
            f"let its name end in .tsv: mv {shlex.quote(path.name)} {shlex.quote(new)}",
        )


def _made_up_header(path: Path) -> list[str] | None:
    """Return names for the columns of a csv or tsv file whose first line is a row; None for a file
    with a header and for other formats."""
    from mtlcli.data.delimited import looks_like_row
    from mtlcli.data.read import first_rows

    kind = ending(path).partition(".")[0]
    if kind not in ("csv", "tsv"):
        return None
    rows = first_rows(path, kind)
    if len(rows) < 2 or not looks_like_row(rows[0], rows[1:]):
        return None
    return [f"column{number}" for number in range(1, len(rows[0]) + 1)]


def _other_splits(files: list[Path]) -> dict[str, str]:
    """Return the files beside a train file that hold its other splits, by the name of the split."""
    found: dict[str, str] = {}
    if len(files) != 1 or "train" not in files[0].name:
        return found
    path = files[0]
    for split, words in (("validation", VALIDATION), ("test", ("test",))):
        for word in words:
            other = path.with_name(path.name.replace("train", word))
            if other.is_file():
                found.setdefault(split, str(other))
    return found


def _splits(splits: dict[str, str], rows: int, guess: Any, table: Any) -> list[str]:
    """Return the lines of the section `splits`."""
    lines = ["splits:"]
    if "validation" not in splits:
        fraction = 0.1 if rows >= SMALL else 0.2
        whole = f", group: {_scalar(guess.group)}" if guess.group else ""
        lines += _with_comment(
            f"  hold_out: {{fraction: {fraction}{whole}}}",
            "rows of train that are kept for validation; or name a file above: validation: FILE",
        )
        for column in _groups(guess, table)[:3]:
            lines.append(
                f"  # hold_out: {{fraction: {fraction}, group: {_scalar(column)}}}  "
                f"# rows with the same {column} on one side"
            )
    if "test" in splits:
        lines.append("  test: test")
    return lines if len(lines) > 1 else []


def _groups(guess: Any, table: Any) -> list[str]:
    """Return the columns that may name groups of rows, such as the author of several texts."""
    used = {
        name
        for each in guess.columns.values()
        for name in ([each] if isinstance(each, str) else each)
    }
    found = []
    for name in table.rows.column_names:
        if name in used or not re.search(r"(?i)(_id|user|author|doc|group|speaker|source)$", name):
            continue
        values = [value for value in table.column(name) if value is not None]
        if 2 < len({str(value) for value in values}) <= len(values) // 2:
            found.append(name)
    return found


def _with_comment(line: str, why: str) -> list[str]:
    """Return a line with a comment behind it, or before it where both are too long."""
    if not why:
        return [line]
    if len(line) + len(why) + 4 <= WIDTH + 20:
        return [f"{line}  # {why}"]
    indent = line[: len(line) - len(line.lstrip())]
    return [f"{indent}# {why}", line]


def _scalar(value: Any) -> str:
    """Return a single value as YAML."""
    text: str = yaml.safe_dump(_escaped(value), allow_unicode=True, width=10**9)
    return text.removesuffix("...\n").strip()


def _flow(values: list[str]) -> str:
    """Return a list as YAML on one line."""
    text: str = yaml.safe_dump(
        [_escaped(value) for value in values],
        allow_unicode=True,
        default_flow_style=True,
        width=10**9,
    )
    return text.strip()


def _escaped(value: Any) -> Any:
    """Return a text that the configuration reads as it stands, without references to other keys."""
    return value.replace("${", r"\${") if isinstance(value, str) else value


def _shortened(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."
