"""The rows of one split, and where each of them stands in its file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.errors import Problem

NAMED = 5
"""Rows with the same fault that are named to the user; beyond them there is a count."""

ID_COLUMNS = ("id", "idx")
"""Columns that number the rows of a data set, where the task does not name one itself."""


def text_array(values: Iterable[str | None]) -> pa.StringArray:
    """An arrow array of text. `pa.array` would import pandas, which takes half a second."""
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def integer_array(values: NDArray[np.int32] | NDArray[np.int64]) -> pa.Array:
    """An arrow array of whole numbers; see `text_array`."""
    kind = pa.int32() if values.dtype == np.int32 else pa.int64()
    return pa.Array.from_buffers(
        kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def others(numbers: Sequence[int], count: int, kind: str = "line") -> str:
    """`` (and 7 more: lines 5, 7, 8, 9, ...)``: after the first of `count` rows with the same
    fault, the others.

    numbers: the first of them, NAMED or more if there are so many.
    """
    if count < 2:
        return ""
    listed = ", ".join(map(str, numbers[1:NAMED])) + (", ..." if count > NAMED else "")
    return f" (and {count - 1:,} more: {kind}{'s' if count > 2 else ''} {listed})"


def headers(rows: Iterable[Sequence[str | None]], names: Sequence[str]) -> list[int]:
    """The rows that hold the names of all columns, in whatever order: header lines of files that
    were put together."""
    known = sorted(map(_plain, names))
    first = set(known)
    return [
        number
        for number, row in enumerate(rows)
        if _plain(row[0]) in first and sorted(map(_plain, row)) == known
    ]


def header_again(row: Sequence[str | None], names: Sequence[str], where: str, more: str) -> Problem:
    """What is wrong with a row that `headers` has found. `more`: in words, the others."""
    if list(map(_plain, row)) == list(map(_plain, names)):
        return Problem(
            f"the row repeats the header{more}",
            where,
            "delete it: of files that are put together only the first keeps its header",
        )
    what = f"the row is a header with the columns in another order{more}"
    return Problem(
        what,
        where,
        "bring the columns of the rows below it into the order of the first header, and delete it",
    )


def _plain(name: str | None) -> str:
    """A name as it is compared: a byte order mark, white space around it and case are no
    difference."""
    return (name or "").strip("\ufeff").strip().casefold()


def as_numpy(column: pa.Array | pa.ChunkedArray) -> NDArray:
    """A column of numbers without nulls as numpy. Arrow's own `to_numpy` imports pandas, which
    takes longer than to check all rows."""
    found: NDArray = np.from_dlpack(
        column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    )
    return found


@dataclass
class Table:
    """Rows of one split of one task."""

    rows: pa.Table
    """The columns as read; the task says which of them it uses."""
    origin: str
    """File that the rows were read from, or a name such as `hub:nyu-mll/glue/cola/train`."""
    split: str
    """Name of the split."""
    lines: list[int] | None = field(default=None, repr=False)
    """Line in `origin` where each row starts, for text files; None: rows are numbered."""
    numbers: NDArray[np.int64] | None = field(default=None, repr=False)
    """Number of each row in the split, from 0, where the table holds only some of its rows; None:
    it holds all of them."""

    names: list[str] | None = field(default=None, repr=False)
    """All columns that the file has; None: those of `rows`."""

    @property
    def all_names(self) -> list[str]:
        """The columns that there are, also those that are not read because nothing needs them."""
        return self.rows.column_names if self.names is None else self.names

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def column(self, name: str) -> list[Any]:
        """The values of a column as Python objects, in row order."""
        return list(self.rows.column(name).to_pylist())

    def class_names(self, column: str) -> list[str] | None:
        """The names that the file's own metadata has for the whole numbers in a column
        (`ClassLabel` of the datasets library)."""
        text = (self.rows.schema.metadata or {}).get(b"huggingface")
        try:
            names = json.loads(text)["info"]["features"][column]["names"] if text else None
        # Metadata of another form say nothing about this column.
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            return None
        if names == [str(number) for number in range(len(names))]:
            return None  # They say nothing.
        return names if len(set(names)) == len(names) > 1 else None

    def where(self, row: int) -> str:
        """How a row (counted from 0) is named to the user: `file, line 12`, or `file, row 11`
        counted from 1."""
        return f"{self.origin}, {self.place(row)}"

    def place(self, row: int) -> str:
        """How a row (counted from 0) is named to the user beside its file: `line 12` or `row
        11`."""
        return f"{self._kind} {self._number(row)}"

    def others(self, rows: Sequence[int] | NDArray[np.int64], count: int | None = None) -> str:
        """What follows the name of the first of `rows`, which share a fault: how many more there
        are, and which.

        count: of how many rows these are the first.
        """
        return others(
            [self._number(int(row)) for row in rows[:NAMED]],
            len(rows) if count is None else count,
            self._kind,
        )

    @property
    def _kind(self) -> str:
        return "row" if self.lines is None else "line"

    def _number(self, row: int) -> int:
        return self.number(row) if self.lines is None else self.lines[row]

    def number(self, row: int) -> int:
        """The number of a row (counted from 0) in its split, counted from 1."""
        return 1 + (row if self.numbers is None else int(self.numbers[row]))

    def select(self, rows: NDArray[np.int64]) -> Table:
        """Some of the rows, by their places in this table (counted from 0); messages name them as
        before."""
        return replace(
            self,
            rows=self.rows.take(integer_array(np.asarray(rows, np.int64))),
            lines=None if self.lines is None else [self.lines[row] for row in rows],
            numbers=rows if self.numbers is None else self.numbers[rows],
        )

    def head(self, rows: int) -> Table:
        """The first `rows` rows."""
        return self.select(np.arange(min(rows, len(self))))
