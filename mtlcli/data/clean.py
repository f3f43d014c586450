"""Train rows that are better left out: repetitions of earlier rows, and rows that validation or
test hold too."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.run import Data
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.registry import suggest

NGRAM = 13
"""Number of words in a row that two texts must have in common to overlap, as in the filter of GPT-3
(Brown et al. 2020, appendix C). GPT-3 cut the words and 200 characters around them out of its
documents; here the whole row goes."""


def cleaned(
    train: Table, others: Sequence[Table], columns: Sequence[str], data: Data
) -> tuple[Table, dict[str, Any]]:
    """Return a train split without the rows that `data.deduplicate` and `data.decontaminate`
    remove, and the fields of `ReadSplit` about these.

    `others`: the validation and test splits; `columns`: those of the inputs. A row that is a
    repetition and in another split counts as the latter. Raises UserError when a column is missing
    or no row would be left.
    """
    key = "data.deduplicate" if data.decontaminate is None else "data.decontaminate"
    for table in others:
        if missing := [name for name in columns if name not in table.rows.column_names]:
            fix = f"{suggest(missing[0], table.all_names)}, or take {key} out"
            raise UserError(f"there is no column '{missing[0]}'", table.origin, fix)
    again = leaked = np.zeros(len(train), bool)
    if data.decontaminate is not None:
        leaked = contaminated(train, others, columns, data.decontaminate)
    if data.deduplicate:
        again = repetitions(train, columns) & ~leaked
    left = np.flatnonzero(~(leaked | again))
    if len(train) and not len(left):
        what = f"no row of split '{train.split}' would be left of {len(train):,}"
        raise UserError(
            what, key, "take it out, or name validation and test splits that differ from train"
        )
    numbers = repr([train.number(int(row)) for row in np.flatnonzero(leaked | again)])
    return train.select(left), {
        "duplicates": int(np.count_nonzero(again)),
        "contaminated": int(np.count_nonzero(leaked)),
        "removed": hashlib.sha256(numbers.encode()).hexdigest(),
    }


def normalised(text: str) -> str:
    """Return a text in the form in which texts are compared: in Unicode's form NFKC, with case
    folded (then NFKC again, since folding can undo it), each run of white space as one space, and
    none at the ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def repetitions(train: Table, columns: Sequence[str]) -> NDArray[np.bool_]:
    """Return which rows have the inputs of an earlier row, whatever their labels: (rows,).
    `columns`: the columns of the inputs."""
    seen: set[bytes] = set()
    found = np.zeros(len(train), bool)
    for row, key in enumerate(_keys(train, columns)):
        found[row] = key in seen
        seen.add(key)
    return found


def contaminated(
    train: Table,
    others: Sequence[Table],
    columns: Sequence[str],
    how: Literal["equal", "overlap"],
) -> NDArray[np.bool_]:
    """Return which rows have the inputs of a row of `others` (`equal`), or those and the rows of
    which a text has NGRAM words in a row that a text of `others` has, too (`overlap`): (rows,)."""
    keys = {key for table in others for key in _keys(table, columns)}
    found = np.array([key in keys for key in _keys(train, columns)], bool)
    if how == "overlap":
        grams = {
            gram for table in others for texts in _rows(table, columns) for gram in _ngrams(texts)
        }
        for row, texts in enumerate(_rows(train, columns)):
            found[row] |= any(gram in grams for gram in _ngrams(texts))
    return found


def _rows(table: Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table.column(column) for column in columns), strict=True)


def _keys(table: Table, columns: Sequence[str]) -> Iterator[bytes]:
    """Yield a hash of the normalised inputs of each row, which takes less memory than they do."""
    for values in _rows(table, columns):
        yield _digest(repr([_plain(value) for value in values]))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    # A number of one file may be a text in another.
    return None if value is None else normalised(str(value))


def _ngrams(texts: Sequence[Any]) -> Iterator[bytes]:
    for text in texts:
        words = _words(text)
        for start in range(len(words) - NGRAM + 1):
            yield _digest(" ".join(words[start : start + NGRAM]))


def _words(text: Any) -> list[str]:
    """Return the words of a text, or of a list of words or texts: what stands between white space,
    without punctuation."""
    if isinstance(text, list):
        return [word for each in text for word in _words(each)]
    return re.sub(r"[^\w\s]", "", normalised(text)).split() if isinstance(text, str) else []


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
