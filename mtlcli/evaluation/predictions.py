"""The parts of a file of predictions that describe each table row: which row it is, and its
label."""

from __future__ import annotations

from typing import Any

from mtlcli.data.table import ID_COLUMNS, Table
from mtlcli.tasks.base import TaskType


def describe_rows(task: TaskType[Any], table: Table, *, texts: bool) -> list[dict[str, Any]]:
    """Return {"row", "id", "texts", "gold"} for each row.

    `row`: the number of the row in the split, from 1. `id`: the value of the id column (text or
    numbers), if the table has one. `texts`: column -> text, if `texts` is true. `gold`: the label
    in the form of a prediction; None where the row has no label.
    """
    there = table.rows.column_names
    rows: list[dict[str, Any]] = [{"row": table.number(row)} for row in range(len(table))]
    named = getattr(task.config.columns, "id", None)
    column = next((name for name in ([named] if named else ID_COLUMNS) if name in there), None)
    if column is not None:
        for row, value in zip(rows, table.column(column), strict=True):
            row["id"] = value
    if texts:
        columns = [name for name in task.required_columns(labelled=False) if name != named]
        for row, *values in zip(rows, *map(table.column, columns), strict=True):
            row["texts"] = dict(zip(columns, values, strict=True))
    for row, gold in zip(rows, task.gold(table), strict=True):
        row["gold"] = gold
    return rows
