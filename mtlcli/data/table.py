"""The rows of one split, and where each of them stands in its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


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

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def column(self, name: str) -> list[Any]:
        """The values of a column as Python objects, in row order."""
        return list(self.rows.column(name).to_pylist())

    def where(self, row: int) -> str:
        """How a row (counted from 0) is named to the user: `file, line 12`, or `file, row 11` counted from 1."""
        return f"{self.origin}, line {self.lines[row]}" if self.lines is not None else f"{self.origin}, row {row + 1}"

    def head(self, rows: int) -> Table:
        """The first `rows` rows."""
        return Table(self.rows.slice(0, rows), self.origin, self.split, None if self.lines is None else self.lines[:rows])
