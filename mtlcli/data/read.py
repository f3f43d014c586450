"""Reading of one file of rows into a table. Every error names the line (text files) or what is
wrong with the file (parquet)."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from functools import reduce
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtlcli.config.formats import ENDINGS, NAMED, ending
from mtlcli.data.conll import conll
from mtlcli.data.delimited import csv_rows, delimited, text_lines, tsv_rows
from mtlcli.data.magic import LOOKED_AT, real_kind
from mtlcli.data.objects import read_json, read_jsonl
from mtlcli.data.parquet import plain_rows, read_parquet
from mtlcli.data.table import (
    Table,
    as_numpy,
    header_again,
    headers,
    integer_array,
    integer_scalar,
    others,
    text_array,
)
from mtlcli.data.unpack import first_line, text_bytes
from mtlcli.errors import UserError
from mtlcli.registry import nearest

LOOKED_AT_ROWS = 1000
"""Number of rows from which it is judged whether a file has a header."""


def read_file(
    path: Path,
    split: str,
    columns: Sequence[str] | None = None,
    header: Sequence[str] | None = None,
) -> Table:
    """Read a file as the rows of `split`. `columns`: the columns that are needed; None means all of
    them. `header`: the names of the columns of a csv or tsv file that has no header line.

    parquet: columns of views, dictionaries, decimals and bytes in UTF-8 become plain text and
    numbers. Text files are UTF-8, with or without a byte order mark, and may be compressed (.gz,
    .bz2, .xz, .zst); lines end in LF, CR LF or CR. csv: RFC 4180 with a header line; where that
    line has no comma, a semicolon, a tab or a | may separate the fields. tsv: a header line, no
    quoting. Columns of csv and tsv hold text exactly as it is in the file, and null where a field
    is empty. jsonl: one object on each line. json: a list of objects, or SQuAD's published form.
    conll, conllu: a word on each line (see `conll`). txt: a row on each line that is not blank,
    with the only column `text`. Where the format allows, only the needed columns and the columns
    that number rows are kept.

    Raises UserError, with the line, when the file cannot be read, has no rows or does not fit into
    memory.
    """
    kind = ending(path)
    if kind not in ENDINGS:
        close = nearest(kind, ENDINGS)
        what = f"unknown kind of file '.{kind}'" if kind else "the name of the file has no ending"
        meant = f"did you mean .{close}? " if close else ""
        raise UserError(what, str(path), f"{meant}rows are read from {NAMED}")
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"the file {there}",
            str(path),
            "check the path; it is relative to the folder where mtl was typed",
        )
    try:
        table = _read(path, kind.partition(".")[0], split, columns, header)
    except OSError as error:
        raise UserError(
            f"the file cannot be read: {error}",
            str(path),
            "check its permissions, or copy it again",
        ) from error
    except MemoryError as error:  # Arrow's memory error is a subclass.
        fix = "use a machine with more memory, or a file with fewer rows"
        raise UserError("the file does not fit into memory", str(path), fix) from error
    except pa.ArrowException as error:
        reason = first_line(error)
        fix = "write its columns as text, numbers or lists of them"
        raise UserError(f"the rows of the file cannot be used: {reason}", str(path), fix) from error
    refuse_headers(table)
    return table


def _read(
    path: Path,
    kind: str,
    split: str,
    columns: Sequence[str] | None,
    header: Sequence[str] | None,
) -> Table:
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
    if (problem := real_kind(head, path)) is not None:
        raise UserError(problem)
    if kind == "parquet":
        rows, names = read_parquet(path, columns)
        return Table(rows, str(path), split, names=names)
    data = text_bytes(path)
    if (
        ending(path) != kind
        and (problem := real_kind(data[:LOOKED_AT], path, unpacked=True)) is not None
    ):
        raise UserError(problem)
    text = _decode(data, path)
    if not text.strip():
        raise UserError("the file is empty", str(path), "write rows into it, or name another file")
    if kind == "json":
        rows, lines, names = read_json(text, path, columns)
    elif kind in ("conll", "conllu"):
        rows, lines, names = conll(text, path, columns, universal=kind == "conllu")
    elif kind == "jsonl":
        rows, lines, names = read_jsonl(text, path, columns)
    elif kind == "txt":
        full = [(line, row) for line, row in text_lines(text) if row.strip()]
        lines, names = [line for line, _ in full], ["text"]
        rows = pa.table({"text": text_array(row for _, row in full)})
    else:
        rows, lines, names = delimited(
            csv_rows(text, path, header) if kind == "csv" else tsv_rows(text),
            path,
            columns,
            header,
        )
    return Table(plain_rows(rows, str(path)), str(path), split, lines, names=names)


def first_rows(path: Path, kind: str) -> list[list[str]]:
    """Return the fields of the first LOOKED_AT_ROWS rows of a csv or tsv file (`kind`), its header
    included. Raises UserError, with the line, when they cannot be read."""
    try:
        text = _decode(text_bytes(path), path)
    except OSError as error:
        raise UserError(f"the file cannot be read: {error}", str(path), "check it") from error
    rows = csv_rows(text, path) if kind == "csv" else tsv_rows(text)
    return [fields for _, fields in islice(rows, LOOKED_AT_ROWS)]


def refuse_headers(table: Table) -> None:
    """Raise UserError if rows hold the names of the columns. A table has such rows if it was made
    from csv files that were concatenated with their headers."""
    fields = table.rows.schema
    names = [
        field.name
        for field in fields
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    if len(names) < 2:
        return
    columns = [table.rows.column(name) for name in names]
    # 8 bytes more for a byte order mark and blanks. Only the few rows that are so short are
    # compared with the names.
    longest = integer_scalar(max(len(name.encode()) for name in names) + 8)
    short = [pc.less_equal(pc.binary_length(column), longest) for column in columns]
    few = as_numpy(pc.indices_nonzero(reduce(pc.and_, short)))
    rows = list(
        zip(*(column.take(integer_array(few)).to_pylist() for column in columns), strict=True)
    )
    if again := headers(rows, names):
        numbers = few[again]
        raise UserError(
            header_again(rows[again[0]], names, table.where(int(numbers[0])), table.others(numbers))
        )


def rows_fingerprint(rows: pa.Table) -> str:
    """Return the SHA-256 of the names, types and values of a table's columns, which does not depend
    on how the table is cut into chunks."""
    digest = hashlib.sha256()
    # `take` writes fresh buffers, whereas a slice would include bits of its neighbours. Arrow would
    # import pandas for a numpy array, hence `from_buffers`.
    places = pa.Array.from_buffers(
        pa.int64(), rows.num_rows, [None, pa.py_buffer(np.arange(rows.num_rows, dtype=np.int64))]
    )
    fresh = rows.replace_schema_metadata(None).take(places).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, fresh.schema) as writer:
        writer.write_table(fresh)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _decode(data: bytes, path: Path) -> str:
    """Return the text of a file in UTF-8. Raises UserError with the line, the byte and the likely
    encoding."""
    if (wide := _wide(data)) is not None:
        what = f"the file is not UTF-8 but looks like {wide[:6]}"
        raise UserError(what, f"{path}, line 1", _converted(wide, path))
    if b"\0" in data:
        lines = [line for line, row in enumerate(data.split(b"\n"), start=1) if b"\0" in row]
        what = f"the line holds the byte 0x00, which no text has{others(lines, len(lines))}"
        without = _piped(r"tr -d '\000' <", path)
        fix = f"if the file is damaged, write or copy it again; else delete these bytes: {without}"
        raise UserError(what, f"{path}, line {lines[0]}", fix)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8; the file may be Latin-1"
        raise UserError(what, f"{path}, line {line}", _converted("LATIN1", path)) from error


def _wide(data: bytes) -> str | None:
    """Return the name that iconv has for the encoding of a text in units of two or four bytes; None
    if the text is not in such an encoding."""
    for mark, name in (
        (b"\xff\xfe\0\0", "UTF-32"),
        (b"\0\0\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
    ):
        if data.startswith(mark):
            return name
    # Without a byte order mark: most letters of the header have zero bytes beside them, always in
    # the same places.
    start = data[:200]
    for width, order, places in (
        (2, "LE", (1,)),
        (2, "BE", (0,)),
        (4, "LE", (1, 2, 3)),
        (4, "BE", (0, 1, 2)),
    ):
        rest = [place for place in range(width) if place not in places]
        zeros, letters = (
            sum(start[place::width].count(0) for place in some) for some in (places, rest)
        )
        if not letters and 2 * zeros > len(places) * (len(start) // width) > 0:
            return f"UTF-{8 * width}{order}"
    return None


def _converted(encoding: str, path: Path) -> str:
    """Return the advice and the command that write a file anew in UTF-8."""
    return f"save it as UTF-8: {_piped(f'iconv -f {encoding} -t UTF-8', path)}"


def _piped(command: str, path: Path) -> str:
    """Return a shell command that writes a file anew, unpacked, through `command`."""
    kind, _, packed = ending(path).partition(".")
    unpack = {"": "", "gz": "gzip -dc", "bz2": "bzip2 -dc", "xz": "xz -dc", "zst": "zstd -dc"}[
        packed
    ]
    name = shlex.quote(path.name)
    return (
        f"{unpack} {name} | {command.removesuffix(' <')}" if packed else f"{command} {name}"
    ) + f" > new.{kind}"
