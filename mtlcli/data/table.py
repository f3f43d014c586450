"""The rows of one split, and the place of each of them in its file."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.errors import Problem

NAMED = 5
"""Number of rows with the same fault that a message names; the others are only counted."""

PART = 1 << 15
"""The most rows of a table that are handled at once where a whole table might not fit into
memory."""

ID_COLUMNS = ("id", "idx")
"""Columns that number the rows of a data set, for tasks that do not name an id column."""


def text_array(values: Iterable[str | None]) -> pa.StringArray:
    """Return an Arrow array of text. `pa.array` would import pandas, which takes half a second."""
    builder = pa.lib.StringBuilder()
    builder.append_values(values)
    return builder.finish()


def integer_array(values: NDArray[np.int32] | NDArray[np.int64]) -> pa.Array:
    """Return an Arrow array of whole numbers, without importing pandas (see `text_array`)."""
    kind = pa.int32() if values.dtype == np.int32 else pa.int64()
    return pa.Array.from_buffers(
        kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def others(numbers: Sequence[int], count: int, kind: str = "line") -> str:
    """Return the part of a message that follows the first of `count` rows with the same fault: ``
    (and 7 more: lines 5, 7, 8, 9, ...)``. Empty for a single row.

    numbers: the numbers of the first of these rows, at least NAMED of them if there are so many.
    """
    if count < 2:
        return ""
    listed = ", ".join(map(str, numbers[1:NAMED])) + (", ..." if count > NAMED else "")
    return f" (and {count - 1:,} more: {kind}{'s' if count > 2 else ''} {listed})"


def headers(rows: Iterable[Sequence[str | None]], names: Sequence[str]) -> list[int]:
    """Return the numbers (from 0) of the rows that hold the names of all columns, in any order.
    Such rows are header lines of files that were concatenated."""
    known = sorted(map(_plain, names))
    first = set(known)
    return [
        number
        for number, row in enumerate(rows)
        if _plain(row[0]) in first and sorted(map(_plain, row)) == known
    ]


def header_again(row: Sequence[str | None], names: Sequence[str], where: str, more: str) -> Problem:
    """Return the problem of a row that `headers` has found. `more`: the part of the message that
    lists the other such rows (see `others`)."""
    if list(map(_plain, row)) == list(map(_plain, names)):
        return Problem(
            f"the row repeats the header{more}",
            where,
            "delete it: when files are joined, only the first keeps its header",
        )
    what = f"the row is a header with the columns in another order{more}"
    return Problem(
        what,
        where,
        "bring the columns of the rows below it into the order of the first header, and delete it",
    )


def _plain(name: str | None) -> str:
    """Return a name in the form in which names are compared: without byte order mark, surrounding
    white space and case."""
    return (name or "").strip("\ufeff").strip().casefold()


def integer_scalar(value: int) -> pa.Scalar:
    """Return a whole number for Arrow's functions, which would import pandas for one of Python."""
    return integer_array(np.array([value], np.int64))[0]


def as_numpy(column: pa.Array | pa.ChunkedArray) -> NDArray:
    """Return a column of numbers without nulls as a numpy array. Arrow's own `to_numpy` would
    import pandas, which takes longer than checking all rows."""
    found: NDArray = np.from_dlpack(
        column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    )
    return found


@dataclass
class Table:
    """The rows of one split of one task."""

    rows: pa.Table
    """The columns as they were read; the task decides which of them it uses."""
    origin: str
    """The file that the rows were read from, or a name such as `hub:nyu-mll/glue/cola/train`."""
    split: str
    """Name of the split."""
    lines: NDArray[np.int64] | list[int] | None = field(default=None, repr=False)
    """For text files, the line in `origin` where each row starts; None means that messages number
    the rows."""
    numbers: NDArray[np.int64] | None = field(default=None, repr=False)
    """For a table that holds only some rows of its split, the number of each row in the split, from
    0; None means that the table holds the whole split."""

    files: list[tuple[int, str]] | None = field(default=None, repr=False)
    """For a split that was read from several files, the number of the first row of each file in the
    split, from 0, and the file; None means that `origin` is the only file."""

    names: list[str] | None = field(default=None, repr=False)
    """The names of all columns of the file; None means that they are the columns of `rows`."""

    folder: Path | None = field(default=None, repr=False)
    """Where the rows are on disk, memory-mapped: see `on_disk.py`; None: they are in memory."""

    @property
    def all_names(self) -> list[str]:
        """The names of all columns of the file, including columns that were not read because
        nothing needs them."""
        return self.rows.column_names if self.names is None else self.names

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def parts(self) -> Iterator[Table]:
        """Yield tables of up to PART rows each, which together are this one. Messages about their
        rows name the same lines or row numbers as those of this table."""
        if len(self) <= PART:
            yield self
            return
        for start in range(0, len(self), PART):
            rows = slice(start, min(start + PART, len(self)))
            numbers = np.arange(rows.start, rows.stop)
            yield replace(
                self,
                rows=self.rows.slice(start, PART),
                lines=None if self.lines is None else self.lines[rows],
                numbers=numbers if self.numbers is None else self.numbers[rows],
                folder=None,
            )

    def column(self, name: str) -> list[Any]:
        """Return the values of a column as Python objects, in row order."""
        return list(self.rows.column(name).to_pylist())

    def class_names(self, column: str) -> list[str] | None:
        """Return the class names that the file's own metadata gives to the whole numbers in a
        column, or in its lists (`ClassLabel` of the datasets library), or None if it gives
        none."""
        text = (self.rows.schema.metadata or {}).get(b"huggingface")
        try:
            feature: Any = json.loads(text)["info"]["features"][column] if text else {"names": None}
            # Lists are {"feature": ...} or, in older files, [...].
            feature = feature[0] if isinstance(feature, list) else feature
            names = feature.get("feature", feature)["names"]
        # Metadata of another form has no names for this column.
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            return None
        if names == [str(number) for number in range(len(names))]:
            return None  # The names 0, 1, 2, ... carry no information.
        return names if len(set(names)) == len(names) > 1 else None

    def where(self, row: int) -> str:
        """Return the file and place of a row (counted from 0) for messages: `file, line 12`, or
        `file, row 11` counted from 1."""
        return f"{self.file(row)}, {self._kind} {self._number(row)}"

    def place(self, row: int) -> str:
        """Return the place of a row (counted from 0) for messages that name its file elsewhere:
        `line 12` or `row 11`; with the file where the split has several."""
        of = self._file(row)
        return f"{self._kind} {self._number(row)}" + (f" of {of[1]}" if of else "")

    def others(self, rows: Sequence[int] | NDArray[np.int64], count: int | None = None) -> str:
        """Return the part of a message that follows the first of `rows`, all of which have the same
        fault: how many more rows there are, and which (see the function `others`).

        count: the total number of rows with the fault, if `rows` are only the first of them.
        """
        if self.files is not None:
            total = len(rows) if count is None else count
            named = ", ".join(self.place(int(row)) for row in rows[1:NAMED])
            more = ", ..." if total > NAMED else ""
            return f" (and {total - 1:,} more: {named}{more})" if total > 1 else ""
        return others(
            [self._number(int(row)) for row in rows[:NAMED]],
            len(rows) if count is None else count,
            self._kind,
        )

    @property
    def _kind(self) -> str:
        return "row" if self.lines is None else "line"

    def _number(self, row: int) -> int:
        """Return the line or the row, from 1, in the file that a row was read from."""
        if self.lines is not None:
            return int(self.lines[row])
        of = self._file(row)
        return self.number(row) - (of[0] if of else 0)

    def file(self, row: int) -> str:
        """Return the file of a row (counted from 0), or the name of its origin."""
        of = self._file(row)
        return of[1] if of else self.origin

    def _file(self, row: int) -> tuple[int, str] | None:
        """Return the file of a row and the number of its first row in the split; None where the
        split has one file."""
        if self.files is None:
            return None
        return self.files[bisect_right(self.files, self.number(row) - 1, key=lambda of: of[0]) - 1]

    def number(self, row: int) -> int:
        """Return the number in its split, counted from 1, of a row of this table (counted from
        0)."""
        return 1 + (row if self.numbers is None else int(self.numbers[row]))

    def select(self, rows: NDArray[np.int64]) -> Table:
        """Return a table of some of the rows, by their places in this table (counted from 0).
        Messages about them name the same lines or row numbers as before. Many rows of a table on
        disk are on disk, too."""
        if self.folder is not None and len(rows) > PART:
            from mtlcli.data.on_disk import selected

            return selected(self, rows)
        return replace(
            self,
            rows=self.rows.take(integer_array(np.asarray(rows, np.int64))),
            lines=None if self.lines is None else np.asarray(self.lines)[rows],
            numbers=rows if self.numbers is None else self.numbers[rows],
            folder=None,
        )

    def head(self, rows: int) -> Table:
        """Return a table of the first `rows` rows."""
        return self.select(np.arange(min(rows, len(self))))
