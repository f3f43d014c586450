"""The checks of all rows of all tasks before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtlcli.config.task import named_columns
from mtlcli.data.clean import first_equal, keys
from mtlcli.data.table import Table, as_numpy
from mtlcli.errors import Problem, count_of
from mtlcli.pulse import doing
from mtlcli.registry import suggest
from mtlcli.tasks.base import TaskType
from mtlcli.tasks.checks import ALIKE, bare, counted, distinct, is_list, nearly_one_each, shown

ALIKE_NAMED = 5
"""Number of groups of similar class names whose members a task's warnings list."""


def check_tables(
    tasks: Mapping[str, TaskType[Any]],
    tables: Mapping[str, Mapping[str, Table]],
    *,
    doubts: bool = True,
) -> tuple[list[Problem], dict[str, list[Problem]]]:
    """Return the problems of the tables ({task: {split: table}}), and the warnings about them by
    task. `doubts`: whether to look for warnings.

    Problems stop the run: a missing column, an empty split, and the faults that the task type finds
    in the rows. Warnings do not stop it, as every large data set has some: repeated rows, the same
    text with different labels, validation rows that also occur in train, classes without a train
    row. A split that could not be read is not in `tables`, and its fault was reported before.
    """
    shapes = {
        name: {
            split: _check_shape(task, table, _is_labelled(task, split))
            for split, table in tables[name].items()
        }
        for name, task in tasks.items()
    }
    # All tasks learn from their train splits before any check, since a task may use the classes of
    # another.
    for name, task in tasks.items():
        sound = {split: table for split, table in tables[name].items() if not shapes[name][split]}
        train = sound.pop(task.config.splits.train or "", None)
        task.prepare(train, list(sound.values()))
    problems: list[Problem] = []
    warnings: dict[str, list[Problem]] = {}
    for number, (name, task) in enumerate(tasks.items()):
        doing(f"checking the rows of {name}", number, len(tasks), "task")
        found: list[Problem] = []
        for split, table in tables[name].items():
            found += shapes[name][split] or task.check(table, labelled=_is_labelled(task, split))
        problems += [problem.of_task(name) for problem in found]
        if doubts and not found and (doubtful := _doubts(task, tables[name])):
            warnings[name] = [problem.of_task(name) for problem in doubtful]
    return problems, warnings


def _is_labelled(task: TaskType[Any], split: str) -> bool:
    return split == task.config.splits.train or split in task.config.splits.validation


def _check_shape(task: TaskType[Any], table: Table, labelled: bool) -> list[Problem]:
    """Return the problems of missing columns and empty splits. The checks of the task types rely on
    their absence."""
    there = table.all_names
    keys = {column: key for key, column in named_columns(task.config.columns)}
    missing = [
        Problem(
            f"there is no column '{column}'",
            table.origin,
            f"{suggest(column, there)}; set tasks.{task.name}.columns.{keys[column]}"
            if column in keys
            else suggest(column, there),
        )
        for column in task.required_columns(labelled=labelled)
        if column not in there
    ]
    if missing or len(table):
        return missing
    return [
        Problem(
            f"split '{table.split}' has no rows",
            table.origin,
            f"fill it, or take it out of tasks.{task.name}.splits",
        )
    ]


def _doubts(task: TaskType[Any], tables: Mapping[str, Table]) -> list[Problem]:
    """Return the warnings about tables without problems: classes without rows, texts that occur
    more than once, and the like."""
    splits = task.config.splits
    train = tables.get(splits.train or "")
    if train is None:
        return []
    others = [
        tables[split] for split in splits.validation if split in tables and split != splits.train
    ]
    texts = _numbered_texts(task, [train, *others])
    found = _doubtful_classes(task, train) + task.doubts(train)
    if train.split in splits.validation:
        what = (
            f"split '{train.split}' is used for both training and validation: its score would only "
            "show what was memorised"
        )
        found.append(
            Problem(
                what, f"tasks.{task.name}.splits.validation", "name a split that is not trained on"
            )
        )
    for table, numbers in zip([train, *others], texts, strict=True):
        found += _repeats(task, table, numbers, in_train=table is train)
    for table, numbers in zip(others, texts[1:], strict=True):
        known = _first_rows(texts[0], numbers)
        if len(rows := np.flatnonzero(known >= 0)):
            share = f"{len(rows):,} of {count_of(len(table), 'row')}"
            what = (
                f"the text is in train too, in {share}: here that of {train.where(known[rows[0]])}"
            )
            fix = (
                "delete the rows from one of the two: a score on texts of the train split says "
                f"little (tasks.{task.name}.splits; data.decontaminate=equal removes them from "
                "train for a run)"
            )
            brief = (
                f"{table.split}: {count_of(len(rows), 'row has its', 'rows have their')} text "
                "in train, too"
            )
            found.append(counted(table, rows, what, fix, brief))
    return found


def _doubtful_classes(task: TaskType[Any], train: Table) -> list[Problem]:
    """Return warnings about classes that are probably unintended: one for nearly every row, or
    several that look the same."""
    targets = task.targets(train)
    if targets is None or not task.classes:
        return []
    numbers, places = np.unique(targets, return_index=True)
    first = {
        int(number): int(row) for number, row in zip(numbers, places, strict=True) if number >= 0
    }
    rows = int(np.count_nonzero(targets >= 0))
    key = f"tasks.{task.name}.columns.label"
    if nearly_one_each(len(first), rows):
        what = (
            f"{len(first):,} classes for {rows:,} rows: is column '{task.config.columns.label}' "
            "the label column?"
        )
        return [Problem(what, train.origin, f"name the column with the labels in {key}")]
    groups: dict[str, list[int]] = {}
    for number, label in enumerate(task.classes):
        groups.setdefault(bare(label), []).append(number)
    alike = [group for group in groups.values() if len(group) > 1]
    found = []
    for group in alike[:ALIKE_NAMED]:
        labels = [task.classes[number] for number in group]
        write = distinct(labels)
        each = [
            write(task.classes[number])
            + (f" ({train.place(first[number])})" if number in first else "")
            for number in group
        ]
        what = f"classes that differ in {ALIKE}: {', '.join(each)}"
        found.append(
            Problem(
                what,
                train.origin,
                f"write each class in only one way, unless they are different classes ({key})",
            )
        )
    if len(alike) > ALIKE_NAMED:
        found.append(
            Problem(
                f"{len(alike) - ALIKE_NAMED:,} more groups of such classes",
                train.origin,
                f"is this the label column? ({key})",
            )
        )
    return found


def _repeats(
    task: TaskType[Any], table: Table, texts: NDArray[np.int64], *, in_train: bool
) -> list[Problem]:
    """Return warnings about rows that have the text of an earlier row of their split with another
    label and, in the train split, about those that have the same label too."""
    first = _first_rows(texts, texts)
    again = first != np.arange(len(table))
    targets = task.targets(table)
    differs = np.zeros(len(table), bool) if targets is None else again & (targets != targets[first])
    found = []
    if len(rows := np.flatnonzero(differs)):
        named = task.config.columns.label
        columns = named if isinstance(named, list) else [named]
        other, this = (
            ", ".join(shown(table.rows.column(column)[int(row)].as_py()) for column in columns)
            for row in (first[rows[0]], rows[0])
        )
        share = f"{len(rows):,} of {count_of(len(table), 'row')}"
        what = (
            f"same text, different label, in {share}: {this} here, {other} in "
            f"{table.place(first[rows[0]])}"
        )
        fix = (
            f"decide on one label, or delete the rows (column '{', '.join(columns)}', "
            f"tasks.{task.name}.columns.label)"
        )
        brief = (
            f"{table.split}: {count_of(len(rows), 'row has', 'rows have')} the text of another row "
            "but a different label"
        )
        found.append(counted(table, rows, what, fix, brief))
    if in_train and len(rows := np.flatnonzero(again & ~differs)):
        same = "same text" if targets is None else "same text and label"
        what = (
            f"{same} as an earlier row, in {len(rows):,} of {count_of(len(table), 'row')}: here "
            f"as in {table.place(first[rows[0]])}"
        )
        brief = f"{table.split}: {count_of(len(rows), 'row repeats', 'rows repeat')} an earlier row"
        fix = (
            "delete them (data.deduplicate=true does it for a run), unless these texts are meant "
            "to weigh more"
        )
        found.append(counted(table, rows, what, fix, brief))
    return found


def _first_rows(texts: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each of the `wanted` texts, the first row in `texts` that has it, or -1 where no
    row has it: (wanted,)."""
    rows = np.full(max(texts.max(initial=0), wanted.max(initial=0)) + 1, -1)
    rows[texts[::-1]] = np.arange(len(texts))[::-1]
    found: NDArray[np.int64] = rows[wanted]
    return found


def _numbered_texts(task: TaskType[Any], tables: list[Table]) -> list[NDArray[np.int64]]:
    """Return for each row of each table a number that stands for the texts that the model reads,
    without label and id; equal texts have equal numbers."""
    if any(table.folder is not None for table in tables):
        texts_of_rows = keys(
            repr(texts)
            for table in tables
            for part in table.parts()
            for texts in zip(
                *(_as_texts(part.rows[name]).to_pylist() for name in task.compared_columns),
                strict=True,
            )
        )
        first = first_equal(texts_of_rows, texts_of_rows)
        return np.split(first, np.cumsum([len(table) for table in tables])[:-1])
    numbers = np.zeros(sum(map(len, tables)), np.int64)
    for column in task.compared_columns:
        texts = pa.chunked_array(
            [chunk for table in tables for chunk in _as_texts(table.rows.column(column)).chunks]
        )
        # Cells without a value are equal too, where a task type reads such cells.
        encoded = texts.combine_chunks().dictionary_encode("encode")
        column_numbers = as_numpy(encoded.indices).astype(np.int64)
        pairs = numbers * (column_numbers.max(initial=0) + 1) + column_numbers
        numbers = np.unique(pairs, return_inverse=True)[1]
    return np.split(numbers, np.cumsum([len(table) for table in tables])[:-1])


def _as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of texts, or of lists of words, as texts."""
    if is_list(column.type):
        column = pc.binary_join(column.cast(pa.list_(pa.string())), "\x1f")
    return column.cast(pa.large_string())
