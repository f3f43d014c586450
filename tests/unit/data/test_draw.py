"""Which rows take part when there is a limit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from mtlcli.data.draw import draw, draw_of_each, numbered
from mtlcli.data.table import Table

CLASSES = ["a"] * 1000 + ["b"] * 400 + ["c"] * 95 + ["d"] * 5
NUMBERS, _ = numbered(Table(pa.table({"label": CLASSES}), "rows.csv", "train"), "label")


def test_rows_are_a_random_sample_in_the_order_of_the_file() -> None:
    rows = draw(1500, 300, key="0")
    assert len(set(rows.tolist())) == 300 and (np.diff(rows) > 0).all()
    # 300 of 1,500: the mean of their places is 750 with a standard error of 22.
    assert abs(rows.mean() - 750) < 100 and rows[0] > 0
    assert (rows == draw(1500, 300, key="0")).all() and (rows != draw(1500, 300, key="1")).any()
    assert set(rows.tolist()) < set(draw(1500, 301, key="0").tolist())


def test_each_class_has_its_share_and_at_least_one_row() -> None:
    rows = draw(1500, 300, key="0", classes=NUMBERS)
    assert Counter(CLASSES[row] for row in rows) == {"a": 200, "b": 80, "c": 19, "d": 1}
    assert (np.diff(rows) > 0).all()
    few = draw(1500, 4, key="0", classes=NUMBERS)
    assert {CLASSES[row] for row in few} == set("abcd")
    assert [CLASSES[row] for row in draw(1500, 2, key="0", classes=NUMBERS)] == ["a", "b"], (
        "the largest classes first"
    )
    assert set(rows.tolist()) < set(draw(1500, 700, key="0", classes=NUMBERS).tolist())


def test_as_many_rows_of_each_class() -> None:
    classes = np.where(NUMBERS == 2, -1, NUMBERS)  # Rows that are not drawn.
    rows = draw_of_each(classes, 5, key="0")
    assert Counter(CLASSES[row] for row in rows) == {"a": 5, "b": 5, "d": 5}
    assert (np.diff(rows) > 0).all()
    assert (rows == draw_of_each(classes, 5, key="0")).all()
    assert (rows != draw_of_each(classes, 5, key="1")).any()
    assert set(draw_of_each(classes, 4, key="0").tolist()) < set(rows.tolist())
