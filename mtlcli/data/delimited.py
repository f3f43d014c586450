"""Reading of csv and tsv: rows of fields become columns of text.

Python's csv module reads the rows. pyarrow.csv is not used, since it does not report the line of a
row, which every message needs, and reads the faulty field `"x"y` as `xy`.
"""

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

FIELD_LIMIT = 2**31 - 1  # The csv module's own limit, 128 KiB, is less than some contexts have.
NUMBER = re.compile(r"[+-]?[0-9.]+")
WHOLE = re.compile(r"[0-9]+")
LONG = 40
"""Characters in a field of the first line above which it is hardly the name of a column."""


def csv_rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, fields) for each row, the header included. Blank lines are
    skipped. Raises UserError, with the line, when a row is not valid csv."""
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for fields in reader:
            # Excel reads `sep=,` in a first line as a setting, and writes it into the files it
            # saves.
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
    """Yield (line number, fields) for each row, the header included. Blank lines are skipped.
    Quotes are plain characters."""
    for line, row in text_lines(text):
        fields = row.split("\t")
        if any(fields):
            yield line, fields


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) for each line of a text. Lines end in LF, CR LF or CR CR LF, or
    in CR where the text has no LF at all."""
    for line, row in enumerate(text.split("\n" if "\n" in text else "\r"), start=1):
        yield line, row.rstrip("\r")


def delimited(
    rows: Iterator[tuple[int, list[str]]], path: Path, columns: Sequence[str] | None
) -> tuple[pa.Table, list[int], list[str]]:
    """Return (columns of text, line number of each row, names of all columns) for rows of fields,
    the first of which is the header.

    columns: the columns that are needed; None means all of them. Raises UserError, with the line,
    when the header or a row cannot be used.
    """
    header_line, header = next(rows, (1, []))
    if not header:
        raise UserError("the file is empty", str(path), "write rows into it, or name another file")
    where = f"{path}, line {header_line}"
    header = [name.strip().strip("\ufeff") for name in header]
    if len(header) == 1 and any(mark in header[0] for mark in ",;\t|"):
        what = (
            f"the header has only one column, {header[0]!r}: the file seems to use another "
            "separator"
        )
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
        # A first column of whole numbers without a name is the row index that pandas writes.
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
    """Return the line numbers and the fields of the rows. Raises UserError unless each row has as
    many fields as the header.

    Fields after the last of the `named` columns may be missing, since Excel leaves them out in some
    rows.
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
    """Return whether a first line looks like the rows below it rather than like names of
    columns."""
    return any(
        NUMBER.fullmatch(name) or len(name) > LONG or (name and name in column)
        for name, column in zip(header, body, strict=True)
    )


def _shortened(fields: Sequence[str]) -> str:
    text = ", ".join(fields)
    return text if len(text) <= 60 else text[:57] + "..."
