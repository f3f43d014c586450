"""Checks of rows and outputs that several task types share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtlcli.data.table import Table, as_numpy, text_array
from mtlcli.errors import NotFinite, Problem

DECIMAL = re.compile(r"-?[0-9]{1,25}(\.[0-9]{1,25})?", re.ASCII)
FEW_CLASSES = 5
"""Number of classes up to which no check calls them too many for the rows."""


def counted(
    table: Table, rows: Sequence[int] | NDArray[np.int64], what: str, fix: str, brief: str = ""
) -> Problem:
    """Return one Problem for all rows with the same fault: it names the first row, how many more
    there are, and a few of them."""
    return Problem(what + table.others(rows), table.where(int(rows[0])), fix, brief)


def short_and_blank(
    rows: Sequence[Sequence[str | None] | None], least: int = 1
) -> tuple[list[int], list[int]]:
    """Return the rows whose list has fewer than `least` texts, and those with a text in it that is
    missing or blank."""
    short = [row for row, texts in enumerate(rows) if not texts or len(texts) < least]
    blank = [
        row
        for row, texts in enumerate(rows)
        if texts and not all(text and text.strip() for text in texts)
    ]
    return short, blank


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column type holds strings, in whatever layout."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column type holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def as_text(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of text or numbers as text: (rows,). NaN becomes null, -1.0 becomes -1."""
    if pa.types.is_floating(column.type):
        written = {-1: "-1", None: None}
        values = [
            written[value] if value in written else None if value != value else str(value)
            for value in column.to_pylist()
        ]
        return text_array(values)
    return pa.array(column.cast(pa.string()).combine_chunks())


def text_problems(table: Table, columns: Sequence[str]) -> list[Problem]:
    """Return the faults of columns of text: another type, or rows with nothing but white space."""
    problems = []
    for column in columns:
        values = table.rows.column(column)
        if not (is_text(values.type) or pa.types.is_null(values.type)):
            problems.append(
                wrong_type(
                    table, column, "text is needed", "name a column of text, or write it as text"
                )
            )
            continue
        empty = _blank(table, column)
        if len(empty):
            problems.append(
                counted(
                    table,
                    empty,
                    f"column '{column}' is empty or missing",
                    "fill it in, or leave the row out",
                )
            )
    return problems


def _blank(table: Table, column: str) -> NDArray[np.int64]:
    """Return the rows in which a column of text holds nothing but white space."""
    found, start = [], 0
    for part in table.parts():
        values = part.rows.column(column).cast(pa.large_string())
        sizes = pc.binary_length(pc.utf8_trim_whitespace(values))
        rows = np.arange(start, start + len(part))
        found.append(np.delete(rows, as_numpy(pc.indices_nonzero(sizes))))
        start += len(part)
    return np.concatenate(found)


def wrong_type(table: Table, column: str, needed: str, fix: str, row: int = 0) -> Problem:
    """Return the problem of a column whose type cannot be used. `row`: the row whose value the
    message shows."""
    values = table.rows.column(column)
    value = f" ({shown(values[row].as_py())})" if row < len(table) else ""
    return Problem(
        f"column '{column}' holds {in_words(values.type)}{value}, where {needed}",
        table.where(row),
        fix,
    )


def shown(value: Any) -> str:
    """Return a value of a row, shortened, in the form that messages show."""
    if isinstance(value, float):
        value = round(value, 6)
    text = str(value) if isinstance(value, date | time | timedelta) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def in_words(kind: pa.DataType) -> str:
    """Return the name of a column type that messages use."""
    names = {
        "text": is_text(kind),
        "whole numbers": pa.types.is_integer(kind),
        "numbers with a decimal point": pa.types.is_floating(kind) or pa.types.is_decimal(kind),
        "true and false": pa.types.is_boolean(kind),
        "objects": pa.types.is_struct(kind),
        "lists": is_list(kind),
        "dates or times": pa.types.is_temporal(kind),
        "maps": pa.types.is_map(kind),
        "nothing but null": pa.types.is_null(kind),
    }
    return next((name for name, fits in names.items() if fits), str(kind))


def nearly_one_each(classes: int, rows: int) -> bool:
    """Return whether there are so many classes that most have a single row. The column then holds
    ids or texts rather than labels."""
    return classes > FEW_CLASSES and 2 * classes > rows


ALIKE = "white space, case, quotes, Unicode form or the form of a number only"
"""The differences between class names that `bare` ignores, for messages."""


def bare(label: str) -> str:
    """Return a class name without what is easily overlooked: white space around and between words,
    case, quotes around the name, Unicode form and invisible characters. A number becomes its
    value."""
    visible = "".join(character for character in label if unicodedata.category(character) != "Cf")
    plain = " ".join(
        unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold()).split()
    )
    plain = plain.strip("\"'").strip() or plain
    return str(Decimal(plain).normalize() + 0) if DECIMAL.fullmatch(plain) else plain


def distinct(names: Sequence[str]) -> Callable[[str], str]:
    """Return the function that writes names so that the reader sees how they differ: with escapes
    where they differ in Unicode form alone."""
    return (
        repr if len({unicodedata.normalize("NFC", name) for name in names}) == len(names) else ascii
    )


def require_finite(task: str, *outputs: NDArray) -> None:
    """Raise NotFinite when the outputs of a head include NaN or infinity, since predictions from
    them mean nothing."""
    if not all(np.isfinite(output).all() for output in outputs):
        what = "the model's outputs are not finite numbers: training diverged"
        raise NotFinite(what, f"task {task}", "lower optim.lr, or set optim.clip")
