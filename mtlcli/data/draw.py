"""The choice of the rows that take part when their number is limited: a random sample that depends
on the seed."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.table import Table


def numbered(
    table: Table, column: str, write: Callable[[Any], str] = str
) -> tuple[NDArray[np.int64], list[str]]:
    """Return a number for the value of each row, equal for values that `write` writes equally:
    (rows,), and what it writes for each number, in the order of their first rows."""
    numbers: dict[str, int] = {}
    found = array("q")
    for part in table.parts():
        found.extend(
            numbers.setdefault(write(value), len(numbers)) for value in part.column(column)
        )
    return np.frombuffer(found, np.int64), list(numbers)


def draw(
    total: int, count: int, *, key: str, classes: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Draw `count` of the rows 0 ... total - 1 and return them in ascending order: (count,).

    `key`: the seed, as text. The same key draws the same rows in every process, and a larger count
    draws the same rows and some more. `classes`: the number of the class of each row, from 0. If
    they are given, the sample has each class in proportion to its rows, rounded by the method of
    Sainte-Laguë, with at least one row of each class provided that `count` is not less than the
    number of classes.
    """
    dice = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    order = dice.permutation(total)
    if classes is None:
        return np.sort(order[:count])
    # The n-th row of a class with `size` rows is placed at (n - 1/2) / size. The first row of each
    # class is placed before all other rows, large classes first.
    by_class = order[np.argsort(classes[order], kind="stable")]
    sizes = np.bincount(classes)
    quotients = np.empty(total)
    quotients[by_class] = 1 + np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    size = sizes[classes]
    quotients = np.where(quotients == 1, -size, (quotients - 0.5) / size)
    return np.sort(order[np.argsort(quotients[order], kind="stable")[:count]])


def draw_of_each(classes: NDArray[np.int64], count: int, *, key: str) -> NDArray[np.int64]:
    """Draw `count` rows of each class, of which there are enough, and return them in ascending
    order. `classes`: the number of the class of each row, negative for rows that are not drawn.
    `key`: as for `draw`."""
    dice = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    order = dice.permutation(len(classes))
    numbers = np.unique(classes[classes >= 0])
    return np.sort(np.concatenate([order[classes[order] == each][:count] for each in numbers]))


def draw_groups(groups: NDArray[np.int64], count: int, *, key: str) -> NDArray[np.int64]:
    """Draw rows as `draw` does, but whole groups: as many as have no more than `count` rows
    together, or the first one. `groups`: the number of the group of each row, from 0 in the order
    of their first rows."""
    dice = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    sizes = np.bincount(groups)
    order = dice.permutation(len(sizes))
    taken = max(1, int(np.searchsorted(np.cumsum(sizes[order]), count, side="right")))
    return np.flatnonzero(np.isin(groups, order[:taken]))
