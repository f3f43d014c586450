"""Reading of csv and tsv: rows of fields become columns of text.

Python's csv module reads the rows. pyarrow.csv is not used, since it does not report the line of a
row, which every message needs, and reads the faulty field `"x"y` as `xy`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from mtlcli.config.formats import ending
from mtlcli.data.parquet import repeats
from mtlcli.data.table import ID_COLUMNS, header_again, headers, others, text_array
from mtlcli.errors import UserError

FIELD_LIMIT = 2**31 - 1  # The csv module's own limit, 128 KiB, is less than some contexts have.
NUMBER = re.compile(r"[+-]?[0-9.]+")
WHOLE = re.compile(r"[0-9]+")
SEPARATORS = (",", ";", "\t", "|")
LOOKED_AT = 20
"""Number of rows in which a separator has to make as many fields as there are columns."""
NOTED = re.compile(r'"?sep=(.)"?')
LONG = 40
"""Characters in a field of the first line above which it is hardly the name of a column."""


def csv_rows(
    text: str, path: Path, header: Sequence[str] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, fields) for each row, the header included. Blank lines are
    skipped. `header`: the names of the columns, where the file has no header line. Raises
    UserError, with the line, when a row is not valid csv."""
    csv.field_size_limit(FIELD_LIMIT)
    separator = separator_of(text, None if header is None else len(header))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for fields in reader:
            # The line with which Excel notes the separator is no row.
            if any(fields) and not (line == 1 and NOTED.fullmatch(separator.join(fields))):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"the row is not valid csv: {error}",
            f"{path}, line {line}",
            "close every quote and write a quote inside a quoted field twice; a file without "
            "quoting is a .tsv",
        ) from error


def separator_of(text: str, count: int | None) -> str:
    """Return the character between the fields of a csv file: what Excel has noted in a first line
    `sep=;`; a comma; or, where the first line has no comma outside of quotes, the one of SEPARATORS
    that it has most often, as Excel writes semicolons where the comma is in numbers.

    `count`: the number of columns, if it is known; then the first rows have to have so many fields.
    """
    first = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    if noted := NOTED.fullmatch(first):
        return noted[1]
    if count is not None:
        return next((mark for mark in SEPARATORS if _widths(text, mark) == {count}), ",")
    fields = {mark: len(next(csv.reader([first], delimiter=mark), [])) for mark in SEPARATORS}
    return "," if fields[","] > 1 else max(SEPARATORS, key=lambda mark: fields[mark])


def _widths(text: str, separator: str) -> set[int]:
    """Return the numbers of fields that the first rows have with a separator."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    return {len(fields) for fields in islice(rows, LOOKED_AT) if any(fields)}


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
    rows: Iterator[tuple[int, list[str]]],
    path: Path,
    columns: Sequence[str] | None,
    given: Sequence[str] | None = None,
) -> tuple[pa.Table, list[int], list[str]]:
    """Return (columns of text, line number of each row, names of all columns) for rows of fields,
    the first of which is the header unless the names of the columns are `given`.

    columns: the columns that are needed; None means all of them. Raises UserError, with the line,
    when the header or a row cannot be used.
    """
    header_line, header = (1, list(given)) if given is not None else next(rows, (1, []))
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
    lines, values = _of_one_length(rows, len(header), named_columns, path, given is not None)
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
    if (
        given is None
        and columns
        and not set(columns) & set(header)
        and looks_like_row(header, values)
    ):
        what = f"the file seems to have no header line: its first line is {_shortened(header)!r}"
        names = ("\t" if ending(path).startswith("tsv") else ",").join(columns)
        or_name = ", or name its columns in source.header of the task"
        exact = f"write {names} as its first line, in the order of its columns{or_name}"
        among = (
            f"write the names of its {len(header)} columns as its first line, among them {names}"
            f"{or_name}"
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
    rows: Iterator[tuple[int, list[str]]], length: int, named: int, path: Path, given: bool
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
    header = "source.header of the task" if given else "the header"
    what = f"the row has {count} field{'s' if count != 1 else ''}, {header} {length}{more}"
    raise UserError(what, f"{path}, line {line}", fix)


def looks_like_row(first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first line of a file looks like the rows below it rather than like names
    of columns: one of its fields is a number, is long, or is a value of its column."""
    columns = list(zip(*(row for row in rows if len(row) == len(first)), strict=True))
    return any(
        NUMBER.fullmatch(name) or len(name) > LONG or (name and name in column)
        for name, column in zip(first, columns or [()] * len(first), strict=True)
    )


def _shortened(fields: Sequence[str]) -> str:
    text = ", ".join(fields)
    return text if len(text) <= 60 else text[:57] + "..."
