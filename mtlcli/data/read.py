"""One file of rows -> a table. Every fault names its line (text files) or says what the file is (parquet)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mtlcli.data.table import Table, others
from mtlcli.errors import Problem, UserError
from mtlcli.registry import suggest

EXTENSIONS = ("parquet", "csv", "tsv", "jsonl")
FIELD_LIMIT = 2**31 - 1  # The csv module's own limit of 128 KiB is shorter than some contexts.


def read_file(path: Path, split: str) -> Table:
    """Read a parquet, csv, tsv or jsonl file as the rows of `split`.

    Text files are UTF-8, with or without a byte order mark. csv: RFC 4180 with a header line. tsv: a header line, no
    quoting. jsonl: one object a line. Columns of csv and tsv hold text as it stands in the file, whatever it looks like, and
    null where a field is empty. Raises UserError, with the line, when the file cannot be read or has no rows.
    """
    extension = path.suffix.lower().removeprefix(".")
    if extension not in EXTENSIONS:
        raise UserError(f"unknown kind of file '{path.suffix}'", str(path), suggest(extension, EXTENSIONS))
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"the file {there}", str(path), "check the path; it is relative to the folder where mtl was typed")
    try:
        if extension == "parquet":
            return Table(_parquet(path), str(path), split)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the file cannot be read: {error}", str(path), "check its permissions, or copy it again") from error
    text = _decode(data, path)
    if not text.strip():
        raise UserError("the file is empty", str(path), "write rows into it, or name another file")
    if extension == "jsonl":
        columns, lines = _jsonl(text, path)
    else:
        columns, lines = _delimited(_csv_rows(text, path) if extension == "csv" else _tsv_rows(text), path)
    return Table(pa.table(columns), str(path), split, lines)


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def rows_fingerprint(rows: pa.Table) -> str:
    """SHA-256 of the names, types and values of a table's columns, however the table is cut into chunks."""
    digest = hashlib.sha256()
    # `take` writes fresh buffers: a slice would bring its neighbours' bits along. Of numpy's own array arrow would import pandas.
    places = pa.Array.from_buffers(pa.int64(), rows.num_rows, [None, pa.py_buffer(np.arange(rows.num_rows, dtype=np.int64))])
    fresh = rows.replace_schema_metadata(None).take(places).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, fresh.schema) as writer:
        writer.write_table(fresh)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        # Not `read_table`: it would turn a folder named `a=b` on the way into a column.
        with pq.ParquetFile(path) as file:
            rows = file.read()
        rows.validate(full=True)
        names = rows.column_names
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the parquet file is damaged or not parquet: {reason}",
            str(path),
            "download or write the file again; a csv, tsv or jsonl file needs its own extension",
        ) from error
    if repeated := _repeated(names):
        raise UserError(f"the file has a column twice: {', '.join(repeated)}", str(path), "rename one of them")
    return rows


def _repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _decode(data: bytes, path: Path) -> str:
    """The text of a file in UTF-8; a fault names the line and the likely encoding."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:200]:
        raise UserError(
            "the file is not UTF-8 but looks like UTF-16 or a binary file",
            f"{path}, line 1",
            f"save it as UTF-8: iconv -f UTF-16 -t UTF-8 {path.name} > new{path.suffix}",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"byte 0x{data[error.start]:02x} is not UTF-8; the file may be Latin-1",
            f"{path}, line {line}",
            f"save it as UTF-8: iconv -f LATIN1 -t UTF-8 {path.name} > new{path.suffix}",
        ) from error


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each row, the header included; blank lines are skipped."""
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"the row is not valid csv: {error}",
            f"{path}, line {line}",
            "close every quote and write a quote inside a quoted field twice; a file without quoting is a .tsv",
        ) from error


def _tsv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of each row, the header included; blank lines are skipped. Quotes are plain characters."""
    for line, row in enumerate(text.split("\n"), start=1):
        row = row.removesuffix("\r")
        if row:
            yield line, row.split("\t")


def _delimited(rows: Iterator[tuple[int, list[str]]], path: Path) -> tuple[dict[str, pa.Array], list[int]]:
    """Columns and line numbers of rows of fields whose first is the header."""
    header_line, header = next(rows)
    header = [name.strip() for name in header]
    if len(header) == 1 and any(mark in header[0] for mark in ",;\t|"):
        raise UserError(
            f"the header is one column, {header[0]!r}: another separator is in use",
            f"{path}, line {header_line}",
            "save the file with commas as .csv, or with tabs as .tsv",
        )
    if repeated := _repeated(header):
        raise UserError(f"the header names a column twice: {', '.join(repeated)}", f"{path}, line {header_line}", "rename one of them")
    lines: list[int] = []
    values: list[list[str]] = []
    wrong: list[tuple[int, int]] = []
    for line, fields in rows:
        if len(fields) != len(header):
            wrong.append((line, len(fields)))
        else:
            lines.append(line)
            values.append(fields)
    if wrong:
        line, count = wrong[0]
        more = others([line for line, _ in wrong], len(wrong))
        fix = "a separator inside a text needs quotes in csv, and cannot be written in tsv: use csv or jsonl"
        if count < len(header):
            fix = "give every row all fields; an empty one needs its separator too"
        what = f"the row has {count} field{'s' if count != 1 else ''}, the header {len(header)}{more}"
        raise UserError(what, f"{path}, line {line}", fix)
    if not lines:
        raise UserError("the file has a header and no rows", str(path), "write rows into it, or name another file")
    return {name: _text_column(column) for name, column in zip(header, zip(*values, strict=True), strict=True)}, lines


def _text_column(values: Sequence[str]) -> pa.Array:
    """Fields as they stand in the file; an empty one is null. Whoever needs numbers converts them."""
    return pa.array([value or None for value in values], pa.string())


def _jsonl(text: str, path: Path) -> tuple[dict[str, pa.Array], list[int]]:
    """Columns and line numbers of one object a line; a key that a line lacks is null there."""
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    broken: list[tuple[int, str]] = []
    no_objects: list[tuple[int, str]] = []
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except json.JSONDecodeError as error:
            broken.append((line, f"broken JSON at character {error.pos + 1}: {error.msg}"))
        except RecursionError:
            broken.append((line, "broken JSON: its brackets are nested too deeply"))
        except ValueError as error:  # A number of thousands of digits.
            broken.append((line, f"broken JSON: {error}"))
        else:
            if isinstance(value, dict):
                lines.append(line)
                objects.append(value)
            else:
                no_objects.append((line, f"{row.strip()[:40]} is not an object"))
    problems = [
        Problem(wrong[0][1] + others([line for line, _ in wrong], len(wrong)), f"{path}, line {wrong[0][0]}", fix)
        for wrong, fix in ((broken, "write one JSON object a line"), (no_objects, 'write {"column": value, ...} in each line'))
        if wrong
    ]
    if text.lstrip("\ufeff \n").startswith("[") and not objects:
        problems = [Problem("the file is a JSON list", str(path), "write its objects one a line, without commas between the lines")]
    if problems:
        raise UserError(problems)
    names = list(dict.fromkeys(name for row in objects for name in row))
    if not names:
        raise UserError("the objects have no keys", str(path), "write one object of column names and values a line")
    columns: dict[str, pa.Array] = {}
    for name in names:
        values = [row.get(name) for row in objects]
        try:
            columns[name] = pa.array(values)
        except (ValueError, TypeError, OverflowError):
            problems.append(_odd_value(name, values, lines, path))
    if problems:
        raise UserError(problems)
    return columns, lines


def _odd_value(name: str, values: list[Any], lines: list[int], path: Path) -> Problem:
    """The first line whose value does not go with those before it."""
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            pa.array(values[:middle])
            good = middle
        except (ValueError, TypeError, OverflowError):
            bad = middle
    shown = json.dumps(values[bad - 1])
    return Problem(
        f"column '{name}': the value {shown[:60]} does not have the type of the lines before it",
        f"{path}, line {lines[bad - 1]}",
        "give every line a value of the same type, or null",
    )
