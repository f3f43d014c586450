"""csv and tsv: rows of fields -> columns of text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from mtlcli.config.formats import ending
from mtlcli.data.parquet import repeats
from mtlcli.data.table import ID_COLUMNS, header_again, headers, others, text_array
from mtlcli.errors import UserError

FIELD_LIMIT = 2**31 - 1  # The csv module's own limit of 128 KiB is shorter than some contexts.
NUMBER = re.compile(r"[+-]?[0-9.]+")
WHOLE = re.compile(r"[0-9]+")
LONG = 40
"""Characters that few names of columns have."""


def csv_rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each row, the header included; blank lines are skipped."""
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            # Excel understands `sep=,` as a first line and writes it along.
            if any(fields) and not (line == 1 and fields == ["sep=", ""]):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"the row is not valid csv: {error}",
            f"{path}, line {line}",
            "close every quote and write a quote inside a quoted field twice; a file without "
            "quoting is a .tsv",
        ) from error


def tsv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of each row, the header included; blank lines are skipped. Quotes are plain
    characters."""
    for line, row in text_lines(text):
        fields = row.split("\t")
        if any(fields):
            yield line, fields


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text, numbered from 1. They end in LF, CR LF or CR CR LF; in CR where there is
    no LF at all."""
    for line, row in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
        yield line, row.rstrip("\r")


def delimited(
    rows: Iterator[tuple[int, list[str]]], path: Path, columns: Sequence[str] | None
) -> tuple[pa.Table, list[int], list[str]]:
    """Columns of text, line numbers and names of all columns, of rows of fields whose first is the
    header.

    columns: those that are needed; None: all.
    """
    header_line, header = next(rows, (1, []))
    if not header:
        raise UserError("the file is empty", str(path), "write rows into it, or name another file")
    where = f"{path}, line {header_line}"
    header = [name.strip().strip("\ufeff") for name in header]
    if len(header) == 1 and any(mark in header[0] for mark in ",;\t|"):
        what = f"the header is one column, {header[0]!r}: another separator is in use"
        raise UserError(what, where, "save the file with commas as .csv, or with tabs as .tsv")
    named_columns = max(
        (number for number, name in enumerate(header, start=1) if name), default=len(header)
    )
    lines, values = _of_one_length(rows, len(header), named_columns, path)
    if named_columns > 1 and (again := headers(values, header)):
        numbers = [lines[row] for row in again]
        raise UserError(
            header_again(
                values[again[0]],
                header,
                f"{path}, line {numbers[0]}",
                others(numbers, len(numbers)),
            )
        )
    body = list(zip(*values, strict=True)) if values else [()] * len(header)
    if columns and not set(columns) & set(header) and _is_row(header, body):
        what = f"the file seems to have no header line: its first line is {_shortened(header)!r}"
        names = ("\t" if ending(path).startswith("tsv") else ",").join(columns)
        exact = f"write {names} as its first line, in the order of its columns"
        among = (
            f"write the names of its {len(header)} columns as its first line, among them {names}"
        )
        raise UserError(what, where, exact if len(columns) == len(header) else among)
    named = []
    for number, (name, column) in enumerate(zip(header, body, strict=True), start=1):
        if name:
            named.append((name, column))
        # As pandas numbers the rows.
        elif any(column) and not (number == 1 and all(map(WHOLE.fullmatch, column))):
            row = next(row for row, value in enumerate(column) if value)
            what = (
                f"column {number} has no name, and the value {_shortened([column[row]])!r} in "
                f"line {lines[row]}"
            )
            raise UserError(what, where, "name it, or delete it")
    if repeated := repeats(name for name, _ in named):
        raise UserError(
            f"the header names a column twice: {', '.join(repeated)}", where, "rename one of them"
        )
    if not lines:
        raise UserError(
            "the file has a header and no rows",
            str(path),
            "write rows into it, or name another file",
        )
    kept = [pair for pair in named if columns is None or pair[0] in (*columns, *ID_COLUMNS)]
    table = pa.table({name: text_array(value or None for value in column) for name, column in kept})
    return table, lines, [name for name, _ in named]


def _of_one_length(
    rows: Iterator[tuple[int, list[str]]], length: int, named: int, path: Path
) -> tuple[list[int], list[list[str]]]:
    """Line numbers and fields of rows, which must have as many fields as the header.

    After the last of the `named` columns fields may be missing: Excel leaves them out in some rows.
    """
    lines: list[int] = []
    values: list[list[str]] = []
    wrong: list[tuple[int, int]] = []
    for line, fields in rows:
        if named <= len(fields) < length:
            fields = fields + [""] * (length - len(fields))
        if len(fields) != length:
            wrong.append((line, len(fields)))
        else:
            lines.append(line)
            values.append(fields)
    if not wrong:
        return lines, values
    line, count = wrong[0]
    more = others([line for line, _ in wrong], len(wrong))
    fix = (
        "a separator inside a text needs quotes in csv, and cannot be written in tsv: use csv or "
        "jsonl"
    )
    if count < length:
        fix = "give every row all fields; an empty one needs its separator too"
    what = f"the row has {count} field{'s' if count != 1 else ''}, the header {length}{more}"
    raise UserError(what, f"{path}, line {line}", fix)


def _is_row(header: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether a first line looks like the rows below rather than like names of columns."""
    return any(
        NUMBER.fullmatch(name) or len(name) > LONG or (name and name in column)
        for name, column in zip(header, body, strict=True)
    )


def _shortened(fields: Sequence[str]) -> str:
    text = ", ".join(fields)
    return text if len(text) <= 60 else text[:57] + "..."
