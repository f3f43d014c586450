"""How a label column is written: as text, as numbers, as numbers that the file itself names, or as
true and false."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtlcli.data.table import Table, text_array
from mtlcli.tasks.checks import as_text, is_text

WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
"""A whole number as an id is written: `007` and `+1` are names."""
SIGNED = re.compile(r"\+[0-9]+")
POINT_ZERO = re.compile(r"-?[0-9]+\.0+")
"""What pandas makes of a whole number in a column with an empty row."""
NO_LABEL = ("", "-1", "-1.0", "nan", "NaN")
"""What says that a row has no label, unless it is the name of a class."""
LIKE_NO_LABEL = ("None", "NULL", "null", "NA", "N/A", "n/a", "#N/A", "<NA>", "NAN", "NaT")
"""What some program writes where there is no label, and what may be the name of a class all the
same."""
TRUE = ("true", "t", "yes", "y", "on", "1")
FALSE = ("false", "f", "no", "n", "off", "0")


def truths(labels: Sequence[str]) -> tuple[str, str] | None:
    """The class that means false and the one that means true, whatever their order; None unless
    there is exactly one of each."""
    false, true = (
        [label for label in labels if label.strip().casefold() in words] for words in (FALSE, TRUE)
    )
    return (false[0], true[0]) if len(false) == len(true) == 1 else None


def true_is_first(labels: Sequence[str]) -> bool:
    """Whether the only two classes mean true and false in this order: as ids, 0 would be true."""
    pair = truths(labels)
    return pair is not None and list(labels) == [pair[1], pair[0]]


def names_in_file(
    table: Table, column: str, labels: Sequence[str] | None, ids: bool | None
) -> list[str] | None:
    """The names that the file's own metadata has for the ids in a label column; None where it has
    none.

    `ids`: whether the task says that numbers are places in `labels`. These are then other words for
    the same classes, in the same order, where the task has none of the file's names.
    """
    names = table.class_names(column)
    return list(labels) if ids and names and labels and renames(names, labels) else names


def renames(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether the task calls all classes of a file otherwise than the file does."""
    return len(names) == len(labels) and not set(names) & set(labels)


def written(
    table: Table, column: str, labels: Sequence[str] | None, ids: bool | None = None
) -> tuple[pa.Array, bool]:
    """The label of each row as text, null where there is none: (rows,); and whether the text is
    certain to be a name, never an id.

    `labels`: the names of the classes, if they are known. `ids`: see `names_in_file`. True and
    false are the classes that mean so.
    """
    if column not in table.rows.column_names:
        return pa.nulls(len(table), pa.string()), False
    values = table.rows.column(column)
    if pa.types.is_boolean(values.type):
        false, true = truths(labels or []) or ("false", "true")
        return _replaced(values, lambda value: true if value else false), True
    names = names_in_file(table, column, labels, ids)
    if names is not None and pa.types.is_integer(values.type):
        return _replaced(
            values, lambda value: names[value] if 0 <= value < len(names) else str(value)
        ), True
    texts = as_text(values)
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
    return pc.if_else(blank, pa.scalar(None, texts.type), texts), False


def _replaced(values: pa.ChunkedArray, name: Callable[[Any], str]) -> pa.Array:
    """`name` of each value, null where the value is."""
    encoded = values.combine_chunks().dictionary_encode()
    names = [name(value) for value in encoded.dictionary.to_pylist()]
    return text_array(names).take(encoded.indices)


def has_label(table: Table, column: str, labels: Sequence[str] | None) -> NDArray[np.bool_]:
    """Which rows say that they have a label, whether it is one of the classes or not: (rows,).

    `labels`: the names of the classes, if they are known.
    """
    if column not in table.rows.column_names or not holds_labels(table.rows.column(column).type):
        return np.ones(len(table), bool)
    texts = written(table, column, labels)[0]
    marks = text_array(sorted(_marks(texts) if labels is None else set(NO_LABEL) - set(labels)))
    missing = pc.or_(pc.is_null(texts), pc.is_in(texts, marks))
    return np.array(pc.invert(missing).to_pylist(), bool)


def learned(train: Table, column: str) -> list[str] | None:
    """The classes of a train split as they are written, whole numbers in the order of numbers; None
    where they are numbers with a decimal point, which pandas makes of ids beside an empty row."""
    texts = written(train, column, None)[0]
    found = set(texts.unique().to_pylist()) - {None} - _marks(texts)
    if pa.types.is_floating(train.rows.column(column).type) or (
        found and all(map(POINT_ZERO.fullmatch, found))
    ):
        return None
    whole = all(WHOLE.fullmatch(text.removeprefix("+")) for text in found)
    return sorted(found, key=int if whole else None)


def _marks(texts: pa.Array) -> set[str]:
    """What says in a column of unknown classes that a row has no label: -1 does not beside +1."""
    signed = any(SIGNED.fullmatch(text) for text in texts.unique().to_pylist() if text is not None)
    return set(NO_LABEL) - ({"-1"} if signed else set())


def balanced(ids: NDArray[np.int64], classes: int) -> list[float]:
    """Weights inversely to the rows of each class, rows / (classes with rows * rows of the class),
    as in scikit-learn. `ids`: of all rows, negative where there is no label. A class without rows
    weighs 1: only smoothing reads its weight."""
    counts = np.bincount(ids[ids >= 0], minlength=classes)
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return [float(weight) if count else 1.0 for weight, count in zip(weights, counts, strict=True)]


def holds_labels(kind: pa.DataType) -> bool:
    """Whether a column type can hold labels; floats can where every one is missing, or is a class
    name."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return is_text(kind) or number or pa.types.is_null(kind)
