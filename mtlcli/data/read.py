"""One file of rows -> a table. Every fault names its line (text files) or says what the file is (parquet)."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from mtlcli.data.table import Table
from mtlcli.errors import Problem, UserError
from mtlcli.registry import suggest

EXTENSIONS = ("parquet", "csv", "tsv", "jsonl")
# No leading zeros and at most 18 digits: `007` and longer runs of digits are names, which a number would not give back.
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]{0,17})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
FIELD_LIMIT = 2**31 - 1  # The csv module's own limit of 128 KiB is shorter than some contexts.


def read_file(path: Path, split: str) -> Table:
    """Read a parquet, csv, tsv or jsonl file as the rows of `split`.

    Text files are UTF-8, with or without a byte order mark. csv: RFC 4180 with a header line. tsv: a header line, no
    quoting. jsonl: one object a line. In csv and tsv an empty field is null, and a column whose other values are all
    integers (or all numbers) holds integers (or floats). Raises UserError, with the line, when the file cannot be read
    or has no rows.
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
    # `take` writes fresh buffers: a slice would bring its neighbours' bits along.
    fresh = rows.replace_schema_metadata(None).take(np.arange(rows.num_rows)).combine_chunks()
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
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the parquet file is damaged or not parquet: {reason}",
            str(path),
            "download or write the file again; a csv, tsv or jsonl file needs its own extension",
        ) from error
    return rows


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
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
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
        others = f" (and {len(wrong) - 1} more rows, next in line {wrong[1][0]})" if len(wrong) > 1 else ""
        raise UserError(
            f"the row has {count} fields, the header {len(header)}{others}",
            f"{path}, line {line}",
            "a separator inside a text needs quotes in csv, and cannot be written in tsv: use csv or jsonl",
        )
    if not lines:
        raise UserError("the file has a header and no rows", str(path), "write rows into it, or name another file")
    return {name: _typed(list(column)) for name, column in zip(header, zip(*values, strict=True), strict=True)}, lines


def _typed(values: list[str]) -> pa.Array:
    """Integers if every non-empty value is one, else floats, else strings; empty is null."""
    filled = [value for value in values if value]

    def convert(to: Callable[[str], Any]) -> list[Any]:
        return [to(value) if value else None for value in values]

    if filled and all(INTEGER.fullmatch(value) for value in filled):
        return pa.array(convert(int), pa.int64())
    if filled and all(NUMBER.fullmatch(value) for value in filled):
        return pa.array(convert(float), pa.float64())
    return pa.array(convert(str), pa.string())


def _jsonl(text: str, path: Path) -> tuple[dict[str, pa.Array], list[int]]:
    """Columns and line numbers of one object a line; a key that a line lacks is null there."""
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for line, row in enumerate(text.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except json.JSONDecodeError as error:
            problems.append(
                Problem(f"broken JSON at character {error.pos + 1}: {error.msg}", f"{path}, line {line}", "write one JSON object a line")
            )
            continue
        if not isinstance(value, dict):
            problems.append(Problem(f"a {type(value).__name__} is not an object", f"{path}, line {line}", 'write {"column": value, ...}'))
            continue
        lines.append(line)
        objects.append(value)
    if problems:
        more = [Problem(f"{len(problems) - 3} more lines are broken", str(path))] if len(problems) > 3 else []
        raise UserError(problems[:3] + more)
    names = list(dict.fromkeys(name for row in objects for name in row))
    if not names:
        raise UserError("the objects have no keys", str(path), "write one object of column names and values a line")
    return {name: _json_column(name, [row.get(name) for row in objects], lines, path) for name in names}, lines


def _json_column(name: str, values: list[Any], lines: list[int], path: Path) -> pa.Array:
    try:
        return pa.array(values)
    except (ValueError, TypeError, OverflowError) as error:
        _blame(name, values, lines, path, error)


def _blame(name: str, values: list[Any], lines: list[int], path: Path, error: Exception) -> NoReturn:
    """Find the first line whose value does not go with those before it, and say so."""
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            pa.array(values[:middle])
            good = middle
        except (ValueError, TypeError, OverflowError):
            bad = middle
    shown = json.dumps(values[bad - 1])
    raise UserError(
        f"column '{name}': the value {shown[:60]} does not have the type of the lines before it",
        f"{path}, line {lines[bad - 1]}",
        "give every line a value of the same type, or null",
    ) from error
