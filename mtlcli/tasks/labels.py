"""How a label column is written: as text, as numbers, as numbers that the file itself names, or as true and false."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from mtlcli.data.table import Table
from mtlcli.tasks.checks import as_text

TRUE = ("true", "t", "yes", "y", "on", "1")
FALSE = ("false", "f", "no", "n", "off", "0")


def truths(labels: Sequence[str]) -> tuple[str, str] | None:
    """The class that means false and the one that means true, whatever their order; None unless there is exactly one of each."""
    false, true = ([label for label in labels if label.strip().casefold() in words] for words in (FALSE, TRUE))
    return (false[0], true[0]) if len(false) == len(true) == 1 else None


def true_is_first(labels: Sequence[str]) -> bool:
    """Whether the only two classes mean true and false in this order: as ids, 0 would be true."""
    pair = truths(labels)
    return pair is not None and list(labels) == [pair[1], pair[0]]


def names_in_file(table: Table, column: str, labels: Sequence[str] | None) -> list[str] | None:
    """The names that the file's own metadata has for the ids in a label column; None where it has none.

    Where the task's `labels` are as many and have none of these names, they are other words for the same classes, in the same order.
    """
    names = table.class_names(column)
    return list(labels) if names and labels and renames(names, labels) else names


def renames(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether the task calls all classes of a file otherwise than the file does."""
    return len(names) == len(labels) and not set(names) & set(labels)


def written(table: Table, column: str, labels: Sequence[str] | None) -> tuple[pa.Array, bool]:
    """The label of each row as text, null where there is none: (rows,); and whether the text is certain to be a name, never an id.

    `labels`: the names of the classes, if they are known. True and false are the classes that mean so.
    """
    if column not in table.rows.column_names:
        return pa.nulls(len(table), pa.string()), False
    values = table.rows.column(column)
    if pa.types.is_boolean(values.type):
        false, true = truths(labels or []) or ("false", "true")
        return _replaced(values, lambda value: true if value else false), True
    names = names_in_file(table, column, labels)
    if names is not None and pa.types.is_integer(values.type):
        return _replaced(values, lambda value: names[value] if 0 <= value < len(names) else str(value)), True
    return as_text(values), False


def _replaced(values: pa.ChunkedArray, name: Callable[[Any], str]) -> pa.Array:
    """`name` of each value, null where the value is."""
    encoded = values.combine_chunks().dictionary_encode()
    names = [name(value) for value in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices)
