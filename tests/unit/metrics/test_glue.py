"""The average that GLUE itself reports."""

from __future__ import annotations

from typing import Any

import pytest

from mtlcli.metrics.glue import METRICS, glue_average


def tasks(*left_out: str, **metrics: dict[str, float]) -> dict[str, Any]:
    """Results in which every score is 0.5, but for those given."""
    entries = {
        name: {"metrics": dict.fromkeys(keys, 0.5)}
        for name, keys in METRICS.items()
        if name not in left_out
    }
    return entries | {name: {"metrics": given} for name, given in metrics.items()}


def test_pairs_of_metrics_count_as_one_task() -> None:
    mnli = {"accuracy": 0.8, "accuracy/validation_mismatched": 0.6}
    found = glue_average(
        tasks(
            "wnli",
            mrpc={"f1": 0.9, "accuracy": 0.7},
            stsb={"pearson": 1.0, "spearman": 0.8},
            mnli=mnli,
        )
    )
    assert found == pytest.approx((0.5 * 5 + 0.8 + 0.9 + 0.7) / 8)
    assert glue_average(tasks(wnli={"accuracy": 0.95})) == pytest.approx((0.5 * 8 + 0.95) / 9)
    assert glue_average(tasks("wnli", ax={"matthews": 0.1})) == 0.5


def test_other_tasks_or_missing_scores_have_no_such_average() -> None:
    assert glue_average(tasks("rte")) is None
    assert glue_average(tasks(squad={"f1": 0.5})) is None
    assert glue_average(tasks(mrpc={"accuracy": 0.5})) is None
    assert glue_average({}) is None
