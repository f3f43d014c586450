"""What is looked at in all rows of all tasks before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.registry import suggest
from mtlcli.tasks.base import TaskType


def check_tables(tasks: Mapping[str, TaskType[Any]], tables: Mapping[str, Mapping[str, Table]]) -> tuple[list[Problem], list[str]]:
    """What is wrong with the tables ({task: {split: table}}), and what the user should hear of.

    Problems stop the run: a missing column, an empty split, and what the task type finds in the rows. Notices do not:
    repeated train rows, and rows of a validation split that also occur in train. A task whose train split has its
    columns is prepared on it first, as its check needs what it learns there.
    """
    problems: list[Problem] = []
    notices: list[str] = []
    for name, task in tasks.items():
        splits = task.config.splits
        labelled = {split: split == splits.train or split in splits.validation for split in tables[name]}
        found = [problem for split, table in tables[name].items() for problem in _check_shape(name, task, table, labelled[split])]
        if not found:
            task.prepare(tables[name].get(splits.train or ""))
            found = [problem for split, table in tables[name].items() for problem in task.check(table, labelled=labelled[split])]
        if not found:
            notices += _overlaps(name, task, tables[name])
        problems += found
    return problems, notices


def _check_shape(name: str, task: TaskType[Any], table: Table, labelled: bool) -> list[Problem]:
    """Missing columns and empty splits, which a task type's own check takes for granted."""
    if len(table) == 0:
        return [Problem(f"task {name}: split '{table.split}' has no rows", table.origin, f"fill it, or take it out of tasks.{name}.splits")]
    there = table.rows.column_names
    keys = {column: key for key, column in vars(task.config.columns).items()}
    return [
        Problem(
            f"task {name}: there is no column '{column}'",
            table.origin,
            f"{suggest(column, there)}; set tasks.{name}.columns.{keys[column]}" if column in keys else suggest(column, there),
        )
        for column in task.required_columns(labelled=labelled)
        if column not in there
    ]


def _overlaps(name: str, task: TaskType[Any], tables: Mapping[str, Table]) -> list[str]:
    """Notices on rows whose text was met before."""
    splits = task.config.splits
    if splits.train not in tables:
        return []
    train = _texts(task, tables[splits.train])
    known = set(train)
    parts = []
    if repeated := len(train) - len(known):
        parts.append(f"{repeated} of {len(train)} {splits.train} rows {_be(repeated)} repeated")
    for split in splits.validation:
        if split in tables and split != splits.train:
            rows = _texts(task, tables[split])
            if shared := sum(row in known for row in rows):
                parts.append(f"{shared} of {len(rows)} {split} rows also {'occurs' if shared == 1 else 'occur'} in {splits.train}")
    return [f"{name}: {'; '.join(parts)}"] if parts else []


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _texts(task: TaskType[Any], table: Table) -> list[tuple[Any, ...]]:
    """The texts of each row: what the model reads, without label and id."""
    columns = [column for column in task.required_columns(labelled=False) if column != getattr(task.config.columns, "id", None)]
    return list(zip(*(table.column(column) for column in columns), strict=True))
