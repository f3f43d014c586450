"""Train rows that are better left out: repetitions of earlier rows, and rows that validation or
test hold too."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.run import Data
from mtlcli.data.table import PART, Table
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
    keys = _keys(train, columns)
    return first_equal(keys, keys) != np.arange(len(train))


def contaminated(
    train: Table,
    others: Sequence[Table],
    columns: Sequence[str],
    how: Literal["equal", "overlap"],
) -> NDArray[np.bool_]:
    """Return which rows have the inputs of a row of `others` (`equal`), or those and the rows of
    which a text has NGRAM words in a row that a text of `others` has, too (`overlap`): (rows,)."""
    known = [np.zeros((0, 2), np.uint64), *(_keys(table, columns) for table in others)]
    found: NDArray[np.bool_] = first_equal(np.concatenate(known), _keys(train, columns)) >= 0
    if how == "overlap":
        grams = {
            gram for table in others for texts in _rows(table, columns) for gram in _ngrams(texts)
        }
        for row, texts in enumerate(_rows(train, columns)):
            found[row] |= any(gram in grams for gram in _ngrams(texts))
    return found


def _rows(table: Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for part in table.parts():
        yield from zip(*(part.column(column) for column in columns), strict=True)


def _keys(table: Table, columns: Sequence[str]) -> NDArray[np.uint64]:
    """Return the `key` of the normalised inputs of each row: (rows, 2)."""
    return keys(repr([_plain(value) for value in values]) for values in _rows(table, columns))


def keys(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Return 16 bytes for each text, which are equal for equal texts alone, and take less memory
    than the texts: (texts, 2)."""
    found = bytearray()
    for text in texts:
        found += _digest(text)
    return np.frombuffer(found, np.uint64).reshape(-1, 2)


def first_equal(keys: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return, for each of the `wanted` keys (n, 2), the first place in `keys` (m, 2) that has it,
    or -1 where none has it: (n,)."""
    order = np.argsort(keys[:, 0], kind="stable")
    found = np.full(len(wanted), -1)
    for start in range(0, len(wanted), PART):
        some = wanted[start : start + PART]
        places = np.searchsorted(keys[:, 0], some[:, 0], sorter=order)
        left = np.arange(len(some))
        # Different keys hardly ever begin with the same 8 bytes, so one look is mostly enough.
        while len(left := left[places[left] < len(keys)]):
            there = keys[order[places[left]]]
            equal = (there == some[left]).all(axis=1)
            found[start + left[equal]] = order[places[left[equal]]]
            left = left[~equal & (there[:, 0] == some[left, 0])]
            places[left] += 1
    return found


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
