"""Checks on rows and outputs that several task types make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtlcli.config.task import TextColumns
from mtlcli.data.table import Table
from mtlcli.errors import Problem, RunError


def counted(table: Table, rows: Sequence[int] | NDArray[np.int64], what: str, fix: str) -> Problem:
    """One fault of many rows as one Problem: the first row, and how many more there are."""
    more = f" (and {len(rows) - 1:,} more such rows)" if len(rows) > 1 else ""
    return Problem(what + more, table.where(int(rows[0])), fix)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column type holds strings, in whatever layout."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def input_columns(columns: TextColumns) -> list[str]:
    """The columns that hold the input of a task on one text or a pair of texts."""
    return [columns.text] if columns.text_pair is None else [columns.text, columns.text_pair]


def text_problems(table: Table, columns: Sequence[str]) -> list[Problem]:
    """What is wrong with columns of text: another type, or nothing but white space in a row."""
    problems = []
    for column in columns:
        values = table.rows.column(column)
        if not (is_text(values.type) or pa.types.is_null(values.type)):
            problems.append(wrong_type(table, column, "text is needed", "name a column of text, or write it as text"))
            continue
        trimmed = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
        empty = np.flatnonzero(pc.equal(pc.fill_null(trimmed, ""), "").to_numpy())
        if len(empty):
            problems.append(counted(table, empty, f"column '{column}' is empty", "fill it in, or leave the row out"))
    return problems


def wrong_type(table: Table, column: str, needed: str, fix: str) -> Problem:
    """A column of a type that cannot be used."""
    kind = table.rows.column(column).type
    found = "text" if is_text(kind) else str(kind)
    return Problem(f"column '{column}' holds {found}, where {needed}", table.where(0) if len(table) else table.origin, fix)


def require_finite(task: str, *outputs: NDArray) -> None:
    """Raise RunError when a head gave NaN or infinity: such predictions mean nothing."""
    if not all(np.isfinite(output).all() for output in outputs):
        raise RunError("the model's outputs are not finite numbers: training diverged", f"task {task}", "lower optim.lr, or set optim.clip")
