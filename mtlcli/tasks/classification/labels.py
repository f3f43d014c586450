"""The ways in which a label column may be written: as text, as numbers, as numbers that the file
itself names, or as true and false."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtlcli.data.table import Table, integer_scalar, text_array
from mtlcli.tasks.checks import as_text, is_text

WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
"""A whole number in the form of an id; `007` and `+1` are class names instead."""
SIGNED = re.compile(r"\+[0-9]+")
POINT_ZERO = re.compile(r"-?[0-9]+\.0+")
"""The form that pandas gives to whole numbers in a column with an empty row."""
NO_LABEL = ("", "-1", "-1.0", "nan", "NaN")
"""Values that mark a row without a label, unless they are names of classes."""
LIKE_NO_LABEL = ("None", "NULL", "null", "NA", "N/A", "n/a", "#N/A", "<NA>", "NAN", "NaT")
"""Values that some programs write where there is no label, but that may also be names of
classes."""
TRUE = ("true", "t", "yes", "y", "on", "1")
FALSE = ("false", "f", "no", "n", "off", "0")


def truths(labels: Sequence[str]) -> tuple[str, str] | None:
    """Return the class that means false and the class that means true, in this order; None unless
    there is exactly one of each."""
    false, true = (
        [label for label in labels if label.strip().casefold() in words] for words in (FALSE, TRUE)
    )
    return (false[0], true[0]) if len(false) == len(true) == 1 else None


def true_is_first(labels: Sequence[str]) -> bool:
    """Return whether the only two classes are one that means true and one that means false, in this
    order. The id 0 would then mean true."""
    pair = truths(labels)
    return pair is not None and list(labels) == [pair[1], pair[0]]


def names_in_file(
    table: Table, column: str, labels: Sequence[str] | None, ids: bool | None
) -> list[str] | None:
    """Return the names that the file's own metadata gives to the ids in a label column; None if it
    gives none.

    `ids`: whether the config says that numbers are places in `labels`. If so, and if the task has
    as many classes as the file but none of the file's names, `labels` are returned: both then name
    the same classes in the same order.
    """
    names = table.class_names(column)
    return list(labels) if ids and names and labels and renames(names, labels) else names


def renames(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Return whether the task has other names than the file for all classes of the file."""
    return len(names) == len(labels) and not set(names) & set(labels)


def written(
    table: Table, column: str, labels: Sequence[str] | None, ids: bool | None = None
) -> tuple[pa.Array, bool]:
    """Return the label of each row as text, null where there is none: (rows,); and whether the
    texts are certain to be names, never ids.

    `labels`: the names of the classes, if they are known. `ids`: see `names_in_file`. True and
    false become the classes that mean true and false.
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
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), integer_scalar(0))
    return pc.if_else(blank, pa.nulls(1, texts.type)[0], texts), False


def _replaced(values: pa.ChunkedArray, name: Callable[[Any], str]) -> pa.Array:
    """Return `name(value)` for each value, and null where the value is null."""
    encoded = values.combine_chunks().dictionary_encode()
    names = [name(value) for value in encoded.dictionary.to_pylist()]
    return text_array(names).take(encoded.indices)


def has_label(table: Table, column: str, labels: Sequence[str] | None) -> NDArray[np.bool_]:
    """Return which rows are not marked as rows without a label, whether or not their label is one
    of the classes: (rows,).

    `labels`: the names of the classes, if they are known.
    """
    if column not in table.rows.column_names or not holds_labels(table.rows.column(column).type):
        return np.ones(len(table), bool)
    absent = _marks(_distinct(table, column)) if labels is None else set(NO_LABEL) - set(labels)
    marks, found = text_array(sorted(absent)), []
    for part in table.parts():
        texts = written(part, column, labels)[0]
        missing = pc.or_(pc.is_null(texts), pc.is_in(texts, marks))
        found.append(np.array(pc.invert(missing).to_pylist(), bool))
    return np.concatenate(found)


def learned(train: Table, column: str) -> list[str] | None:
    """Return the classes of a train split as they are written, in numerical order if all are whole
    numbers. None where they are numbers with a decimal point, which pandas makes of ids beside an
    empty row."""
    texts = _distinct(train, column)
    found = texts - _marks(texts)
    if pa.types.is_floating(train.rows.column(column).type) or (
        found and all(map(POINT_ZERO.fullmatch, found))
    ):
        return None
    whole = all(WHOLE.fullmatch(text.removeprefix("+")) for text in found)
    return sorted(found, key=int if whole else None)


def _distinct(table: Table, column: str) -> set[str]:
    """Return the labels of a column whose classes are not known, as they are written."""
    found: set[str | None] = set()
    for part in table.parts():
        found.update(written(part, column, None)[0].unique().to_pylist())
    return {text for text in found if text is not None}


def _marks(texts: set[str]) -> set[str]:
    """Return the values that mark a row without a label in a column whose classes are not known. -1
    is a class if the column also has a value such as +1. `texts`: the values of the column."""
    signed = any(map(SIGNED.fullmatch, texts))
    return set(NO_LABEL) - ({"-1"} if signed else set())


def balanced(counts: NDArray[np.int64]) -> list[float]:
    """Return class weights that are inverse to the number of rows of each class, as in
    scikit-learn: rows / (classes with rows * rows of the class). `counts`: the number of rows of
    each class. A class without rows weighs 1: only label smoothing reads its weight."""
    weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return [float(weight) if count else 1.0 for weight, count in zip(weights, counts, strict=True)]


def holds_labels(kind: pa.DataType) -> bool:
    """Return whether a column type can hold labels. Floats can, where every label is missing or is
    the name of a class."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return is_text(kind) or number or pa.types.is_null(kind)
