"""What is forgotten, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mtlcli.report.order import Order, order_tables


def test_forgetting_is_the_fall_from_the_best_score() -> None:
    nan = np.nan
    one = [[0.8, nan, nan], [0.9, 0.6, nan], [0.5, 0.7, 0.4]]
    other = [[0.8, nan, nan], [0.6, 0.6, nan], [0.7, 0.4, 0.6]]
    order = Order("plain", ["a", "b", "c"], ["A", "B", "C"], np.array([one, other]))
    assert order.learned.tolist() == [[0.8, 0.6, 0.4], [0.8, 0.6, 0.6]]
    # A gain after the task was learned is forgetting below 0.
    assert order.forgotten[:, :2].ravel().tolist() == pytest.approx([0.4, -0.1, 0.1, 0.2])
    assert np.isnan(order.forgotten[:, 2]).all()
    matrix, brief = order_tables([order])
    assert matrix.rows[-1][0] == ("forgotten (points)", "+25.0", "+5.0", "", "+15.0")
    cells = ("plain", "0.6333 (sd 0.0471)", "0.5500 (sd 0.0236)", "15.0 (sd 0.0)")
    assert brief.rows[0][0] == cells
