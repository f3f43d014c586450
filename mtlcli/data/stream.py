"""Reading of rows a part at a time, from a file or a pipe of any length, in constant memory. A row
that cannot be read is reported with its place, and reading goes on behind it."""

from __future__ import annotations

import csv
import lzma
import os
import select
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO

import pyarrow as pa

from mtlcli.config.formats import ENDINGS, ending
from mtlcli.data.delimited import FIELD_LIMIT, NOTED, separator_of
from mtlcli.data.nested import stored, unnest
from mtlcli.data.objects import Decoder, array_of, doubled_keys, first_odd, parsed
from mtlcli.data.parquet import plain_rows, repeats
from mtlcli.data.read import read_file
from mtlcli.data.table import ID_COLUMNS, Table, headers, text_array
from mtlcli.data.unpack import first_line
from mtlcli.errors import Problem, UserError

STREAMED = ("csv", "tsv", "jsonl", "txt", "parquet")
"""The kinds of input that are read a part at a time. Files of other kinds are read as a whole."""
BLOCK = 1 << 18
"""Bytes that are read at once."""
LARGEST = 1 << 24
"""Bytes after which a part ends, however few rows it has."""
LONGEST = 1 << 20
"""Characters of a csv row over several lines beyond which a quote is taken to be unclosed."""
IDLE = 1.0
"""Seconds without a new row in a pipe after which the rows that have come are handed on."""

Fields = list[str] | dict[str, Any]
Line = tuple[int, Fields | str | Problem]
"""The line of a row, and its fields, object or text, or what is wrong with it."""


@dataclass
class Part:
    """Some rows of an input, in order."""

    table: Table
    """All rows; one with a fault has only nulls."""
    faults: dict[int, Problem] = field(default_factory=dict)
    """The faults of rows that cannot be read, by their number in the table, from 0."""


class Input:
    """An open input of rows."""

    def __init__(
        self, path: Path | None, kind: str | None, header: Sequence[str] | None = None
    ) -> None:
        """Open a file, or standard input where `path` is None. `kind`: csv, tsv, jsonl, txt or
        parquet; None: as the name of the file says, and for standard input jsonl if the first
        character is `{`, else txt. `header`: the names of the columns of a csv or tsv file without
        a header line. Raises UserError when the file cannot be opened."""
        self.origin = "standard input" if path is None else str(path)
        self._path, self._header = path, header
        self._read = 0
        name = "" if path is None else ending(path)
        self.kind = kind or name.partition(".")[0]
        if path is not None and not path.is_file() and not path.is_fifo():
            there = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(f"the file {there}", self.origin, "check the path")
        if path is not None and self.kind not in (*STREAMED, *ENDINGS):
            fix = f"say what it holds: --format {'|'.join(STREAMED)}"
            raise UserError(f"unknown kind of file '.{name}'", self.origin, fix)
        if self.kind == "parquet" and (path is None or path.is_fifo()):
            fix = "write it into a file, or send csv, tsv, jsonl or plain lines"
            raise UserError("parquet cannot be read from a pipe", self.origin, fix)
        if header is not None and self.kind not in ("csv", "tsv"):
            what = f"a header can be given for csv and tsv, and the input is {self.kind or 'txt'}"
            raise UserError(what, "--header", "take it out, or add --format csv")
        self.size = path.stat().st_size if path is not None else 0
        """Bytes of the file; 0 for standard input."""
        self.rows: int | None = None
        """Number of rows, where the file says it."""

    @property
    def read(self) -> int:
        """Bytes of the file that have been read."""
        return self._read

    def parts(self, columns: Sequence[str], size: int) -> Iterator[Part]:
        """Yield parts of up to `size` rows with the needed columns that the input has, those that
        number rows included. Plain lines have the column `text` alone. Raises UserError when the
        input as a whole cannot be read."""
        try:
            if self.kind == "parquet":
                yield from self._parquet(columns, size)
            elif self.kind in ("json", "conll", "conllu"):
                yield from self._whole(columns, size)
            else:
                yield from self._lines(columns, size)
        except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
            reason = first_line(error)
            raise UserError(
                f"the input cannot be read: {reason}", self.origin, "check it, or write it again"
            ) from error

    def _whole(self, columns: Sequence[str], size: int) -> Iterator[Part]:
        assert self._path is not None
        table = read_file(self._path, "input", stored(columns))
        table = unnest(table, columns)
        self.rows, self._read = len(table), self.size
        for start in range(0, len(table), size):
            yield Part(_slice(table, start, min(size, len(table) - start)))

    def _parquet(self, columns: Sequence[str], size: int) -> Iterator[Part]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path) as file:
            names = file.schema_arrow.names
            if repeated := repeats(names):
                what = f"the file has a column twice: {', '.join(repeated)}"
                raise UserError(what, self.origin, "rename one of them")
            self.rows = file.metadata.num_rows
            wanted = [name for name in names if name in (*stored(columns), *ID_COLUMNS)]
            start = 0
            # The batches of a file end where its row groups end, so they are joined here.
            held: list[pa.RecordBatch] = []
            for batch in file.iter_batches(batch_size=size, columns=wanted):
                held.append(batch)
                while sum(each.num_rows for each in held) >= size:
                    whole = pa.Table.from_batches(held)
                    yield self._of_parquet(whole.slice(0, size), columns, names, start)
                    start += size
                    held = whole.slice(size).to_batches()
            if any(each.num_rows for each in held):
                yield self._of_parquet(pa.Table.from_batches(held), columns, names, start)

    def _of_parquet(
        self, rows: pa.Table, columns: Sequence[str], names: list[str], start: int
    ) -> Part:
        plain = plain_rows(rows, self.origin, stored(columns))
        table = Table(plain, self.origin, "input", names=names, numbers=_numbers(start, len(plain)))
        self._read = self.size * (start + len(plain)) // max(self.rows or 1, 1)
        return Part(unnest(table, columns))

    # --------------------------------------------------------------------------------------------
    # text

    def _lines(self, columns: Sequence[str], size: int) -> Iterator[Part]:
        stream, waits = self._open()
        lines = _Lines(stream, waits, self._note)
        if not self.kind:
            self.kind = "jsonl" if lines.first().lstrip()[:1] == b"{" else "txt"
        rows: Iterator[Line | None]
        names: list[str] | None = None
        if self.kind in ("csv", "tsv"):
            names, rows = self._delimited(lines)
        else:
            rows = _objects(lines, columns) if self.kind == "jsonl" else _texts(lines)
            names = ["text"] if self.kind == "txt" else None
        start, begin = 0, self._read
        held: list[Line] = []
        for row in rows:
            if row is not None:
                held.append(row)
            full = len(held) == size or self._read - begin > LARGEST
            if held and (row is None or full):
                yield self._part(held, names, columns, start)
                start, begin = start + len(held), self._read
                held = []
        if held:
            yield self._part(held, names, columns, start)

    def _open(self) -> tuple[BinaryIO, Callable[[], bool]]:
        """Return the stream of the input, unpacked, and whether it has nothing to read at the
        moment."""
        import sys

        if self._path is None:
            number = sys.stdin.fileno()
            # Windows can wait for sockets only.
            waits = os.name == "posix"
            return sys.stdin.buffer, lambda: waits and not select.select([number], [], [], IDLE)[0]
        packed = ending(self._path).partition(".")[2]
        never = lambda: False  # noqa: E731
        if packed == "xz":
            unpacked: Any = lzma.open(self._path)  # noqa: SIM115
            return unpacked, never
        names = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}
        if packed in names:
            raw: Any = pa.input_stream(str(self._path), compression=names[packed])
            return raw, never
        return self._path.open("rb"), never

    def _note(self, count: int) -> None:
        self._read += count

    def _delimited(self, lines: _Lines) -> tuple[list[str], Iterator[Line | None]]:
        """Return the names of the columns, and the rows."""
        given = None if self._header is None else list(self._header)
        if self.kind == "csv":
            first = lines.first().decode("utf-8-sig", "replace")
            separator = separator_of(first, None if given is None else len(given))
            rows = _csv(lines, separator)
        else:
            rows = _tsv(lines)
        if given is None:
            found = next((row for row in rows if row is not None), (1, []))
            if isinstance(found[1], Problem):
                raise UserError(found[1])
            given = [str(name).strip().strip("\ufeff") for name in found[1]]
            if len(given) == 1 and any(mark in given[0] for mark in ",;\t|"):
                what = f"the header has only one column, {given[0]!r}"
                fix = "another separator? --format csv is for commas, --format tsv for tabs"
                raise UserError(what, f"{self.origin}, line {found[0]}", fix)
        if not given:
            raise UserError("the input is empty", self.origin, "give a header and rows")
        if repeated := repeats(name for name in given if name):
            what = f"the header names a column twice: {', '.join(repeated)}"
            raise UserError(what, self.origin, "rename one of them")
        return given, rows

    def _part(
        self, rows: list[Line], names: list[str] | None, columns: Sequence[str], start: int
    ) -> Part:
        """Return rows as a part. `names`: the names of the columns; None where each row has its
        own."""
        faults: dict[int, Problem] = {}
        sound: list[Any] = []
        row: Any
        for number, (line, row) in enumerate(rows):
            if isinstance(row, list):
                row = self._of_length(row, names or [], line)
            if isinstance(row, Problem):
                where = row.where or f"{self.origin}, line {line}"
                faults[number] = Problem(row.what, where, row.fix)
                row = None
            sound.append(row)
        lines = [line for line, _ in rows]
        if self.kind == "jsonl":
            found = dict.fromkeys(name for row in sound if row is not None for name in row)
            names = list(found)
            there = [name for name in (*stored(columns), *ID_COLUMNS) if name in found]
            values = {
                name: [None if row is None else row.get(name) for row in sound]
                for name in dict.fromkeys(there)
            }
        elif self.kind == "txt":
            values = {"text": sound}
        else:
            assert names is not None
            wanted = {*stored(columns), *ID_COLUMNS}
            places = [(name, at) for at, name in enumerate(names) if name in wanted]
            values = {
                name: [None if row is None else row[at] or None for row in sound]
                for name, at in places
            }
        table, odd = columns_table(
            values, len(rows), self.origin, lines, names=[name for name in names or [] if name]
        )
        table.numbers = _numbers(start, len(rows))
        return Part(unnest(table, columns), odd | faults)

    def _of_length(self, fields: list[str], names: list[str], line: int) -> Fields | Problem:
        """Return the fields of a row as many as there are columns. Empty ones at the end may be
        missing, since Excel leaves them out."""
        count, named = len(names), max(i for i, name in enumerate(names, start=1) if name or i == 1)
        if named <= len(fields) < count:
            return fields + [""] * (count - len(fields))
        if len(fields) != count:
            return Problem(
                f"the row has {len(fields)} field{'s' * (len(fields) != 1)}, the header {count}",
                fix="put a text with a separator in it into quotes",
            )
        if len(names) > 1 and fields[0].strip() in names and headers([fields], names):
            return Problem("the row repeats the header", fix="delete it")
        return fields


class _Lines:
    """The lines of a stream of bytes."""

    def __init__(
        self, stream: BinaryIO, waits: Callable[[], bool], note: Callable[[int], None]
    ) -> None:
        self._stream, self._waits, self._note = stream, waits, note
        self._ahead: deque[tuple[int, bytes]] = deque()
        self._number, self._rest, self._ended = 0, b"", False

    def first(self) -> bytes:
        """Return the first line that is not blank, without taking any away."""
        while True:
            for _, line in self._ahead:
                if line.strip():
                    return line
            if self._ended:
                return b""
            self._fill()

    def back(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Put lines back, to be read again."""
        self._ahead.extendleft(reversed(lines))

    def next(self, *, pauses: bool = True) -> tuple[int, bytes] | None:
        """Return the next line and its number. None, if `pauses`, where there is none for a while.
        Raises StopIteration at the end."""
        while not self._ahead:
            if self._ended:
                raise StopIteration
            if pauses and self._waits():
                return None
            self._fill()
        return self._ahead.popleft()

    def _fill(self) -> None:
        read = getattr(self._stream, "read1", self._stream.read)
        block = read(BLOCK)
        self._note(len(block))
        whole = (self._rest + block).split(b"\n")
        self._ended = not block
        self._rest = b"" if self._ended else whole.pop()
        if self._ended and not whole[-1]:
            whole.pop()
        for line in whole:
            self._number += 1
            if self._number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            self._ahead.append((self._number, line))


def _each(lines: _Lines) -> Iterator[tuple[int, bytes] | None]:
    """Yield the lines, and None where there is none for a while."""
    while True:
        try:
            yield lines.next()
        except StopIteration:
            return


def _decoded(line: bytes) -> str | Problem:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Problem(f"byte 0x{line[error.start]:02x} is not UTF-8", fix="save the file as UTF-8")
    return text.removesuffix("\r")


def _texts(lines: _Lines) -> Iterator[Line | None]:
    for each in _each(lines):
        yield None if each is None else (each[0], _decoded(each[1]))


def _tsv(lines: _Lines) -> Iterator[Line | None]:
    for each in _each(lines):
        text = None if each is None else _decoded(each[1])
        if each is None:
            yield None
        elif isinstance(text, Problem):
            yield each[0], text
        elif text is not None and any(fields := text.split("\t")):
            yield each[0], fields


def _objects(lines: _Lines, columns: Sequence[str]) -> Iterator[Line | None]:
    decoder = Decoder()
    for each in _each(lines):
        text = None if each is None else _decoded(each[1])
        if each is None or isinstance(text, Problem):
            yield None if each is None else (each[0], text)  # type: ignore[misc]
        elif text is not None and text.strip():
            yield each[0], _object(text, decoder, columns)


def _object(text: str, decoder: Decoder, columns: Sequence[str]) -> dict[str, Any] | Problem:
    try:
        value = parsed(text, decoder)
    except ValueError as error:
        return Problem(f"broken JSON{error}", fix="write one JSON object per line")
    if not isinstance(value, dict):
        what = f"{text.strip()[:40]} is not an object"
        return Problem(what, fix='write {"column": value, ...} in each line')
    if decoder.twice:
        decoder.twice = False
        if (again := next(doubled_keys(value, list(columns)), None)) is not None:
            return Problem(f"the object has the key '{again[1]}' twice", fix="write it once")
    return value


class _Unclosed(Exception):
    """A csv row that has become too long."""


def _csv(lines: _Lines, separator: str) -> Iterator[Line | None]:
    """Yield the rows of a csv input. After a faulty row, reading goes on with the next line."""
    csv.field_size_limit(FIELD_LIMIT)
    taken: list[tuple[int, bytes]] = []
    bad: list[Problem] = []

    def source() -> Iterator[str]:
        size = 0
        while True:
            try:
                each = lines.next(pauses=False)
            except StopIteration:
                return
            assert each is not None
            size = len(each[1]) + (size if taken else 0)
            taken.append(each)
            if size > LONGEST and len(taken) > 1:
                raise _Unclosed
            text = _decoded(each[1])
            if isinstance(text, Problem):
                bad.append(text)
                text = each[1].decode(errors="replace")
            # The end of a line inside quotes stays as it is.
            yield text + ("\r\n" if each[1].endswith(b"\r") else "\n")

    while True:
        # A pause can only be noticed between rows.
        try:
            ahead = lines.next()
        except StopIteration:
            return
        if ahead is None:
            yield None
            continue
        lines.back([ahead])
        taken.clear()
        bad.clear()
        reader = csv.reader(source(), delimiter=separator, strict=True)
        try:
            fields = next(reader)
        except (csv.Error, _Unclosed) as error:
            lines.back(taken[1:])
            reason = str(error) or "a quote is not closed"
            fix = "close every quote and write a quote inside a quoted field twice"
            yield ahead[0], Problem(f"the row is not valid csv: {reason}", fix=fix)
            continue
        if bad:
            yield ahead[0], bad[0]
        elif any(fields) and not (ahead[0] == 1 and NOTED.fullmatch(separator.join(fields))):
            yield ahead[0], fields


def columns_table(
    columns: dict[str, list[Any]],
    count: int,
    origin: str,
    lines: list[int] | None,
    *,
    names: list[str],
) -> tuple[Table, dict[int, Problem]]:
    """Return a table of columns with `count` values each, and the faults of rows whose values have
    no type in common with the others, by their number from 0; such values are null in the table.

    `lines`: the line of each row; None: messages number the rows. `names`: the names of all columns
    of the input.
    """
    faults: dict[int, Problem] = {}
    arrays = {}
    kind = "row" if lines is None else "line"
    for name, values in columns.items():
        values = [None if row in faults else value for row, value in enumerate(values)]
        while name not in arrays:
            try:
                arrays[name] = _array_of(values)
            except (ValueError, TypeError, OverflowError):
                row = first_odd(values)
                place = row + 1 if lines is None else lines[row]
                faults[row] = Problem(
                    f"column '{name}': the value {repr(values[row])[:60]} cannot be read, or does "
                    "not have the type of the values before it",
                    f"{origin}, {kind} {place}",
                    "give every row a value of the same type, in valid Unicode",
                )
                values[row] = None
    table = pa.table(arrays) if arrays else pa.table({"": pa.nulls(count)})
    return Table(table, origin, "input", lines, names=names), faults


def _array_of(values: list[Any]) -> pa.Array:
    """Return the values of a part as a column: `array_of`, without importing pandas for texts."""
    kinds = set(map(type, values))
    return text_array(values) if str in kinds and kinds <= {str, NoneType} else array_of(values)


def _slice(table: Table, start: int, count: int) -> Table:
    return table.select(_numbers(start, count))


def _numbers(start: int, count: int) -> Any:
    import numpy as np

    return np.arange(start, start + count, dtype=np.int64)
