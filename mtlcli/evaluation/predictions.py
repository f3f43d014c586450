"""What a file of predictions says of each row beside its prediction: which row it is, and what was
right."""

from __future__ import annotations

from typing import Any

from mtlcli.data.table import ID_COLUMNS, Table
from mtlcli.tasks.base import TaskType


def described(task: TaskType[Any], table: Table, *, texts: bool) -> list[dict[str, Any]]:
    """For each row {"row", "id", "texts", "gold"}.

    `row`: its number in the split, from 1. `id`: where the table has such a column, of text or
    numbers. `texts`: column -> text, if asked for. `gold`: what is right, in the form of the
    prediction; None where the row has no label.
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
