"""What the values of a column look like, for guessing which role the column has in a task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtlcli.data.table import Table

MOST_ROWS = 20_000
"""Number of rows from which a column is judged."""
WHOLE = re.compile(r"[+-]?\d+")
POINTED = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?|[+-]?\d+[eE][+-]?\d+")
COMMA = re.compile(r"[+-]?\d+,\d+")
DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(\D.*)?")
ADDRESS = re.compile(r"(https?://|www\.)\S+")
UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
"""Characters of scripts without blanks between words; a word has some two of them."""
TRUTHS = frozenset({"true", "false", "yes", "no", "y", "n", "t", "f"})


@dataclass(frozen=True)
class Profile:
    """A column and what is known of its values."""

    name: str
    kind: str
    """`text`, `whole` (whole numbers), `number`, `truth`, `date`, `address`, `texts` and `wholes`
    (lists), `object`, `other`, or `empty`."""
    values: Sequence[Any]
    """The values that are there, in the form of the file."""
    rows: int
    """Number of rows that were looked at, those without a value included."""
    counts: Counter[Any]
    """How often each value occurs; for lists, each of their elements."""
    length: float = 0.0
    """Mean number of characters of a text; of a list, its mean number of elements."""
    words: float = 0.0
    """Mean number of words of a text."""
    commas: bool = False
    """Whether a decimal comma is in some of the numbers."""

    @property
    def missing(self) -> int:
        """Number of rows without a value."""
        return self.rows - len(self.values)

    @property
    def distinct(self) -> int:
        """Number of different values."""
        return len(self.counts)

    @property
    def numbers(self) -> list[float]:
        """The values of a column of numbers, as numbers."""
        return [float(str(value).replace(",", ".")) for value in self.values]

    @property
    def consecutive(self) -> bool:
        """Whether the values number the rows one by one."""
        if self.kind != "whole" or len(self.values) < 3:
            return False
        numbers = [int(value) for value in self.values]
        return all(second - first == 1 for first, second in zip(numbers, numbers[1:]))

    @property
    def examples(self) -> str:
        """The most frequent values, for a comment."""
        named = [" ".join(str(value).split()) for value, _ in self.counts.most_common(3)]
        return ", ".join(value if len(value) <= 24 else value[:21] + "..." for value in named)


def profiles(table: Table) -> list[Profile]:
    """Return a profile for each column of a table, judged by its first MOST_ROWS rows."""
    head = table.head(MOST_ROWS)
    return [_profile(name, head.column(name)) for name in head.rows.column_names]


def _profile(name: str, column: list[Any]) -> Profile:
    values = [
        value
        for value in column
        if value is not None
        and value == value
        and not (isinstance(value, str) and not value.strip())
    ]
    rows = len(column)
    if not values:
        return Profile(name, "empty", values, rows, Counter())
    if all(isinstance(value, list) for value in values):
        inner = [each for value in values for each in value if each is not None]
        kind = "other"
        if inner and all(isinstance(each, str) for each in inner):
            kind = "texts"
        elif inner and all(isinstance(each, int) for each in inner):
            kind = "wholes"
        counts = Counter(inner) if kind != "other" else Counter()
        return Profile(name, kind, values, rows, counts, sum(map(len, values)) / len(values))
    if all(isinstance(value, dict) for value in values):
        return Profile(name, "object", values, rows, Counter())
    if any(isinstance(value, list | dict | bytes) for value in values):
        return Profile(name, "other", values, rows, Counter())
    texts = [str(value).strip() for value in values]
    return Profile(
        name,
        _kind(values, texts),
        values,
        rows,
        Counter(values),
        sum(map(len, texts)) / len(texts),
        sum(len(text.split()) + len(UNSPACED.findall(text)) / 2 for text in texts) / len(texts),
        any(COMMA.fullmatch(text) for text in texts),
    )


def _kind(values: list[Any], texts: list[str]) -> str:
    """Return the kind of a column of single values."""
    if all(isinstance(value, bool) for value in values):
        return "truth"
    if not all(isinstance(value, str | int | float) for value in values):
        return "date" if all(hasattr(value, "isoformat") for value in values) else "other"
    if all(WHOLE.fullmatch(text) for text in texts):
        return "whole"
    numbers = [text for text in texts if not WHOLE.fullmatch(text)]
    if all(POINTED.fullmatch(text) for text in numbers) or all(map(COMMA.fullmatch, numbers)):
        return "number"
    if {text.casefold() for text in texts} <= TRUTHS:
        return "truth"
    if all(DATE.fullmatch(text) for text in texts):
        return "date"
    if all(ADDRESS.fullmatch(text) for text in texts):
        return "address"
    return "text"
