"""The choice of the rows that take part when their number is limited: a random sample that depends
on the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw(
    total: int, count: int, *, key: str, classes: Sequence[Any] | None = None
) -> NDArray[np.int64]:
    """Draw `count` of the rows 0 ... total - 1 and return them in ascending order: (count,).

    `key`: the seed, as text. The same key draws the same rows in every process, and a larger count
    draws the same rows and some more. `classes`: the class of each row. If they are given, the
    sample has each class in proportion to its rows, rounded by the method of Sainte-Laguë, with at
    least one row of each class provided that `count` is not less than the number of classes.
    """
    dice = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    order = dice.permutation(total)
    if classes is None:
        return np.sort(order[:count])
    sizes: dict[str, int] = {}
    quotients = np.empty(total)
    # The n-th row of a class with `size` rows is placed at (n - 1/2) / size. The first row of each
    # class is placed before all other rows, large classes first.
    names = [str(value) for value in classes]
    for row in order:
        sizes[names[row]] = sizes.get(names[row], 0) + 1
        quotients[row] = sizes[names[row]]
    size = np.array([sizes[name] for name in names])
    quotients = np.where(quotients == 1, -size, (quotients - 0.5) / size)
    return np.sort(order[np.argsort(quotients[order], kind="stable")[:count]])


def draw_groups(groups: Sequence[Any], count: int, *, key: str) -> NDArray[np.int64]:
    """Draw rows as `draw` does, but whole groups: as many as have no more than `count` rows
    together, or the first one. `groups`: the group of each row."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(groups):
        members.setdefault(repr(name), []).append(row)
    dice = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    each = list(members.values())
    order = [each[place] for place in dice.permutation(len(each))]
    sizes = np.cumsum([len(rows) for rows in order])
    taken = max(1, int(np.searchsorted(sizes, count, side="right")))
    return np.sort(np.concatenate([np.array(rows, np.int64) for rows in order[:taken]]))
