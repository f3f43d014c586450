"""The division of one table into rows to train on and rows that are kept out: for validation, where
the data has no validation split, for calibration, and for cross-validation.

The draw depends on the rows' places and on a seed of its own, so every run, and every task that
reads the same file with the same settings, has the same rows on each side unless classes or groups
divide them.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.config.task import HoldOut
from mtlcli.data.draw import draw, numbered
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.registry import suggest


def kept_out(
    table: Table,
    settings: HoldOut,
    class_column: str | None,
    *,
    part: str = "hold_out",
    together: str | None = None,
) -> NDArray[np.bool_]:
    """Return which rows of a train split are kept out: (rows,).

    `class_column`: the column with the class of each row, if rows have one. With `group`, whole
    groups are drawn until their rows come as close to the share as they can; rows without a group
    stand alone. `together`: the column of the groups where `group` is not set. `part`: the key of
    the settings in `splits`. Raises UserError when one side would
    have no row.
    """
    total = len(table)
    count = round(settings.fraction * total)
    group = settings.group or together
    if group is not None:
        if group not in table.rows.column_names:
            raise UserError(
                f"there is no column '{group}'",
                table.origin,
                f"{suggest(group, table.all_names)}; set splits.{part}.group",
            )
        held = _groups(*numbered(table, group, write=repr), max(count, 1), settings.seed)
    else:
        held = np.ones(total, bool)
        classes = _classes(table, class_column) if settings.stratify else None
        # The rows that stay are drawn, so that train has a row of each class before the other side.
        key = f"held out {settings.seed}"
        held[draw(total, total - count, key=key, classes=classes)] = False
    if not 0 < np.count_nonzero(held) < total:
        side = "train" if held.any() else "validation" if part == "hold_out" else part
        why = f"the split has {total} row{'s' * (total != 1)}"
        if group is not None:
            why = f"column '{group}' has too few different values in {total} rows"
        raise UserError(
            f"no row would be left for {side} with splits.{part}.fraction={settings.fraction:g}: "
            f"{why}",
            table.origin,
            "give another fraction, or name a file for each split",
        )
    return held


def fold_numbers(
    table: Table, folds: int, class_column: str | None, group: str | None
) -> NDArray[np.int64]:
    """Return the fold of each row of a train split, from 0: (rows,).

    The folds have the same number of rows, within one, and their share of each class. With a column
    `group`, rows of a group share a fold, the largest groups first into the smallest fold; rows
    without a group stand alone. The draw depends on the rows' places alone, so that runs with other
    seeds are scored on the same rows. Raises UserError when a fold would have no row.
    """
    total = len(table)
    dice = np.random.default_rng(list(hashlib.sha256(b"folds").digest()))
    found = np.empty(total, np.int64)
    if group is not None and group in table.rows.column_names:
        _, groups, sizes = np.unique(
            _alone(*numbered(table, group, write=repr))[0], return_inverse=True, return_counts=True
        )
        filled = np.zeros(folds, np.int64)
        home = np.empty(len(sizes), np.int64)
        order = dice.permutation(len(sizes))
        for number in order[np.argsort(-sizes[order], kind="stable")]:
            home[number] = filled.argmin()
            filled[home[number]] += sizes[number]
        found = home[groups]
    else:
        order = dice.permutation(total)
        if (classes := _classes(table, class_column)) is not None:
            order = order[np.argsort(classes[order], kind="stable")]
        found[order] = np.arange(total) % folds
    if len(np.unique(found)) < folds:
        unit = "rows" if group is None else f"different values of column '{group}'"
        raise UserError(
            f"the split has too few {unit} for data.folds={folds}",
            table.origin,
            "give fewer folds",
        )
    return found


def _classes(table: Table, column: str | None) -> NDArray[np.int64] | None:
    """Return the number of each row's class, (rows,); None where there are no classes that can be
    drawn in proportion, such as lists."""
    there = column in table.rows.column_names
    if not there or pa.types.is_nested(table.rows.column(str(column)).type):
        return None
    return numbered(table, str(column))[0]


def _alone(groups: NDArray[np.int64], names: list[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the number of each row's group, (rows,), and the names of the groups, where each row
    without a group has one of its own."""
    if "None" in names:
        alone = np.flatnonzero(groups == names.index("None"))
        groups = groups.copy()
        groups[alone] = np.arange(len(names), len(names) + len(alone))
        names = [*names, *(f"row {row}" for row in alone)]
    return groups, names


def _groups(
    groups: NDArray[np.int64], names: list[str], count: int, seed: int
) -> NDArray[np.bool_]:
    """Return rows of whole groups, some `count` of them: (rows,). `groups`: the number of the group
    of each row; `names`: the `repr` of each group's value, which keeps 1 and "1" apart."""
    groups, names = _alone(groups, names)
    sizes = np.bincount(groups, minlength=len(names))
    # Sorted, so that the draw does not depend on the order in which the groups appear.
    there = sorted(np.flatnonzero(sizes).tolist(), key=names.__getitem__)
    key = hashlib.sha256(f"held out groups {seed}".encode()).digest()
    chosen = np.zeros(len(names), bool)
    taken = 0
    for place in np.random.default_rng(list(key)).permutation(len(there)):
        size = int(sizes[there[place]])
        if abs(taken + size - count) < abs(taken - count):
            chosen[there[place]] = True
            taken += size
    held: NDArray[np.bool_] = chosen[groups]
    return held
