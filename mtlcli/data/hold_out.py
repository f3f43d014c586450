"""The division of one table into rows to train on and rows that are kept out: for validation, where
the data has no validation split, and for calibration.

The draw depends on the rows' places and on a seed of its own, so every run, and every task that
reads the same file with the same settings, has the same rows on each side unless classes or groups
divide them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.task import HoldOut
from mtlcli.data.draw import draw
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
        held = _groups(table.column(group), max(count, 1), settings.seed)
    else:
        held = np.ones(total, bool)
        classes = None
        if settings.stratify and class_column in table.rows.column_names:
            classes = table.column(str(class_column))
            # Lists are no classes that can be drawn in proportion.
            classes = None if any(isinstance(each, list | dict) for each in classes) else classes
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


def _groups(values: Sequence[Any], count: int, seed: int) -> NDArray[np.bool_]:
    """Return rows of whole groups, some `count` of them."""
    members: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        # repr keeps 1 and "1" apart, and a row without a group from the text None.
        members.setdefault(repr(value) if value is not None else f"row {row}", []).append(row)
    key = hashlib.sha256(f"held out groups {seed}".encode()).digest()
    # Sorted, so that the draw does not depend on the order in which the groups appear.
    order = np.random.default_rng(list(key)).permutation(len(members))
    groups = [members[name] for name in sorted(members)]
    held = np.zeros(len(values), bool)
    taken = 0
    for group in (groups[place] for place in order):
        if abs(taken + len(group) - count) < abs(taken - count):
            held[group] = True
            taken += len(group)
    return held
