"""Rows for a task: what a user gives becomes a table, and rows that cannot be read are found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.data.nested import stored, unnest
from mtlcli.data.stream import columns_table
from mtlcli.data.table import Table, text_array
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.registry import suggest
from mtlcli.tasks.base import TaskType
from mtlcli.tasks.checks import is_text

WORD = re.compile(r"\w+|[^\w\s]")
"""What is a word of a text: letters and digits, or a single other character."""
ORIGIN = "input"
"""The name of rows that come from Python."""

Row = str | Sequence[Any] | Mapping[str, Any]
"""A row in Python: a text, the values of the task's columns in order, or values by column."""


def id_column(task: TaskType[Any]) -> str | None:
    """Return the column with the id of a row, if the task needs one. A row without it has its
    number."""
    named: str | None = getattr(task.config.columns, "id", None)
    return named if named in task.required_columns(labelled=False) else None


def input_columns(task: TaskType[Any]) -> list[str]:
    """Return the columns that a row needs, without its id."""
    columns = task.required_columns(labelled=False)
    return [column for column in dict.fromkeys(columns) if column != id_column(task)]


def rows_of(inputs: Sequence[Row], tasks: Sequence[TaskType[Any]]) -> list[Mapping[str, Any]]:
    """Return the rows that a user gives in Python as values by column, for some tasks. Raises
    UserError for a row in another form."""
    found: list[Mapping[str, Any]] = []
    for number, row in enumerate(inputs, start=1):
        if isinstance(row, Mapping):
            found.append(row)
            continue
        values: dict[str, Any] = {}
        for task in tasks:
            columns = input_columns(task)
            # The only column may hold a list, of words for example.
            given = [row] if len(columns) == 1 or isinstance(row, str) else list(row)
            if len(given) != len(columns):
                raise UserError(
                    f"task {task.name} takes {count_of(len(columns), 'value')} "
                    f"({', '.join(columns)}), and {count_of(len(given), 'value')} "
                    f"{'is' if len(given) == 1 else 'are'} given",
                    f"{ORIGIN}, row {number}",
                    f"give a tuple ({', '.join(columns)}) or a dict with these keys",
                )
            values |= dict(zip(columns, given, strict=True))
        found.append(values)
    return found


def needed_columns(tasks: Sequence[TaskType[Any]]) -> list[str]:
    """Return the columns that some tasks can use, ids last."""
    ids = [column for task in tasks if (column := id_column(task))]
    return list(dict.fromkeys([*(each for task in tasks for each in input_columns(task)), *ids]))


def table_of(
    rows: Sequence[Mapping[str, Any]], tasks: Sequence[TaskType[Any]]
) -> tuple[Table, dict[int, Problem]]:
    """Return the columns of some rows that some tasks need, as a table, and the rows whose values
    have no type in common with the others. Raises UserError when no row has a needed column."""
    needed = needed_columns(tasks)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in stored(needed) if name in names}
    table, faults = columns_table(columns, len(rows), ORIGIN, None, names=names)
    table = unnest(table, needed)
    for task in tasks:
        require_columns(task, table.all_names, ORIGIN)
    return table, faults


def require_columns(task: TaskType[Any], there: Sequence[str], origin: str) -> None:
    """Raise UserError unless the columns that a task needs are there."""
    key = f"tasks.{task.name}.columns"
    problems = [
        Problem(
            f"task {task.name}: there is no column '{column}'",
            origin,
            f"{suggest(column, there)}; another column is named in {key}"
            if there
            else "give every row its columns",
        )
        for column in input_columns(task)
        if column not in there
    ]
    if problems:
        raise UserError(problems)


class TaskRows:
    """The rows of a table that a task can read."""

    def __init__(self, task: TaskType[Any], table: Table, faults: Mapping[int, Problem]) -> None:
        """Check the rows. `faults`: what is known about rows of the table that cannot be read."""
        self.task = task
        self.faults: dict[int, Problem] = dict(faults)
        """The faults of the other rows, by their number in the table, from 0."""
        self.words: dict[int, list[tuple[int, int]]] = {}
        """Where the row gave a text in the place of words: the characters (begin, end) of each
        word, by the row's number in the table."""
        self.texts: dict[int, str] = {}
        """The text of such rows."""
        known = np.array([row for row in range(len(table)) if row not in faults], np.int64)
        table = self._prepared(table)
        # The ids of rows only name predictions, so they need not be unique.
        own, unique = id_column(task), table
        if own is not None:
            number = table.rows.column_names.index(own)
            ids = text_array(map(str, range(len(table))))
            unique = replace(table, rows=table.rows.set_column(number, own, ids))
        self.places = known[~self._bad(unique, known)] if len(known) else known
        """The numbers of the rows in the given table, from 0."""
        self.table = table if len(self.places) == len(table) else table.select(self.places)
        """The rows that can be read."""

    def _prepared(self, table: Table) -> Table:
        """Return the table with the columns that the task needs and no others, an id for each row
        that has none, and words in the place of texts where the task takes words."""
        rows = table.rows
        columns = input_columns(self.task)
        own = id_column(self.task)
        arrays: dict[str, Any] = {name: rows.column(name) for name in columns}
        if own is not None and own in rows.column_names and not rows.column(own).null_count:
            arrays[own] = rows.column(own)
        elif own is not None:
            given = rows.column(own).to_pylist() if own in rows.column_names else [None] * len(rows)
            arrays[own] = text_array(
                str(table.number(row) if value is None else value)
                for row, value in enumerate(given)
            )
        name = self.task.words_column
        if name is not None and is_text(rows.column(name).type):
            arrays[name] = pa.array(
                self._split(rows.column(name).to_pylist()), pa.list_(pa.string())
            )
        return replace(table, rows=pa.table(arrays), names=None)

    def _split(self, texts: list[str | None]) -> list[list[str] | None]:
        """Return the words of texts, and remember their places."""
        for row, text in enumerate(texts):
            if text is not None:
                self.texts[row] = text
                self.words[row] = [match.span() for match in WORD.finditer(text)]
        return [
            [text[begin:end] for begin, end in self.words[row]] if text is not None else None
            for row, text in enumerate(texts)
        ]

    def _bad(self, table: Table, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of some rows cannot be read: (rows,). Halves with a fault are searched until
        the faulty rows are found, since a check only names the first of them."""
        problems = self.task.check(
            table if len(rows) == len(table) else table.select(rows), labelled=False
        )
        if not problems:
            return np.zeros(len(rows), bool)
        if len(rows) == 1:
            self.faults[int(rows[0])] = problems[0]
            return np.ones(1, bool)
        half = len(rows) // 2
        return np.concatenate([self._bad(table, rows[:half]), self._bad(table, rows[half:])])

    def described(self, predictions: list[Any]) -> list[Any]:
        """Return predictions of the rows with the characters that they are about."""
        found = self.task.located(predictions, self.table)
        if not self.words:
            return found
        return [self._in_text(row, each) for row, each in zip(self.places, found, strict=True)]

    def _in_text(self, row: int, prediction: dict[str, Any]) -> dict[str, Any]:
        """Return a prediction about words with the places of entities in the text of the row."""
        text, places = self.texts[row], self.words[row]
        more: dict[str, Any] = {"words": [text[begin:end] for begin, end in places]}
        if "entities" in prediction:
            more["entities"] = []
            for entity in prediction["entities"]:
                start, end = places[entity["first"]][0], places[entity["last"]][1]
                more["entities"].append(
                    entity | {"text": text[start:end], "start": start, "end": end}
                )
        return prediction | more
