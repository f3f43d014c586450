"""Which rows of a split take part when there is a limit: a random sample that the seed decides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw(
    total: int, count: int, *, key: str, classes: Sequence[Any] | None = None
) -> NDArray[np.int64]:
    """`count` of the rows 0 ... total - 1 in rising order: (count,).

    `key`: the seed, as text; the same key draws the same rows in every process. A larger count
    draws the same rows and some more. `classes`: the class of each row. Each class then has its
    share of the sample, rounded by the method of Sainte-Laguë, and at least one row as long as
    there are as many rows as classes.
    """
    dice = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    order = dice.permutation(total)
    if classes is None:
        return np.sort(order[:count])
    sizes: dict[str, int] = {}
    quotients = np.empty(total)
    # The n-th row of a class stands at (n - 1/2) / size. The first row of each class goes before
    # all others, large classes first.
    names = [str(value) for value in classes]
    for row in order:
        sizes[names[row]] = sizes.get(names[row], 0) + 1
        quotients[row] = sizes[names[row]]
    size = np.array([sizes[name] for name in names])
    quotients = np.where(quotients == 1, -size, (quotients - 0.5) / size)
    return np.sort(order[np.argsort(quotients[order], kind="stable")[:count]])
