"""Scores, row checks, loss and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtlcli.config.task import Source, TextColumns
from mtlcli.data.batches import InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.table import Table
from mtlcli.errors import RunError
from mtlcli.tasks.regression import RegressionTask
from mtlcli.tasks.regression.task import Regression


def task(limits: list[float] | None = None) -> Regression:
    return Regression(
        "toy",
        RegressionTask(
            source=Source(path="x"), columns=TextColumns(text="text"), range=limits, max_length=16
        ),
    )


def table(scores: Any) -> Table:
    return Table(
        pa.table({"text": [f"the cat {i}" for i in range(len(scores))], "label": pa.array(scores)}),
        "toy.jsonl",
        "train",
    )


@pytest.mark.parametrize(
    ("scores", "where", "what"),
    [
        ([1.0, 7.0, -2.0], "toy.jsonl, row 2", "score 7 is outside its range (and 1 more: row 3)"),
        ([1.0, float("inf")], "toy.jsonl, row 2", "score inf is not a finite number"),
        ([float("nan"), 1.0], "toy.jsonl, row 1", "column 'label' has no score: null or NaN"),
        ([1.0, 2.0, None], "toy.jsonl, row 3", "column 'label' has no score: null or NaN"),
        (["1.0", "good"], "toy.jsonl, row 2", "score 'good' is not a finite number"),
        (["1.0", "4", "1_0"], "toy.jsonl, row 3", "score '1_0' is not a finite number"),
        (
            ["1.0", "7", "-2"],
            "toy.jsonl, row 2",
            "score 7 is outside its range (and 1 more: row 3)",
        ),
        (["1.0", None], "toy.jsonl, row 2", "column 'label' has no score: null or NaN"),
        (["1.0", " "], "toy.jsonl, row 2", "column 'label' has no score: null or NaN"),
        (
            [None, "fine", "good"],
            "toy.jsonl, row 2",
            "column 'label' holds text ('fine'), where numbers are needed",
        ),
        (
            [True, False],
            "toy.jsonl, row 1",
            "column 'label' holds true and false (True), where numbers are needed",
        ),
    ],
)
def test_a_bad_score_is_named_with_its_row(scores: list[Any], where: str, what: str) -> None:
    (problem,) = task([0, 5]).check(table(scores), labelled=True)
    assert (problem.where, problem.what) == (where, what)
    assert problem.fix


def test_a_score_whose_squared_error_is_beyond_fp32_is_refused_before_the_run() -> None:
    """Predictions start at the mean of the scores: one such score would make the loss of every row
    infinite."""
    scores = [3.0] * 40 + [1e30]
    (problem,) = task().check(table(scores), labelled=True)
    assert (
        problem.where == "toy.jsonl, row 41"
        and "score 1e+30 is too large to be trained on" in problem.what
    )
    (problem,) = task([0, 5]).check(table(scores), labelled=True)
    assert "outside its range" in problem.what


@pytest.mark.parametrize("others", [[1.0, 2.0, 3.0, 4.0], [1.0] * 4])
def test_a_score_far_from_all_others_is_doubted(others: list[float]) -> None:
    scores = [*others * 10, 1e9]
    assert task().check(table(scores), labelled=True) == []
    (problem,) = task().doubts(table(scores))
    assert (
        problem.where == "toy.jsonl, row 41"
        and "score 1e+09, while half of the rows lie between" in problem.what
    )
    assert task().doubts(table([*others * 10, 50.0])) == []


def test_good_scores_and_scores_without_a_range() -> None:
    assert task([0, 5]).check(table([0, 5, 2]), labelled=True) == []
    written = table(["0", "+5.", " 2.5e-1 ", "007"])  # as in every csv file
    assert task().check(written, labelled=True) == [] and task().references(written) == [
        0,
        5,
        0.25,
        7,
    ]
    assert task().check(table([-100.0, 1e6]), labelled=True) == []


@pytest.mark.parametrize(
    "scores", [[-1.0, -1.0], ["-1", "-1"], [None, None], [float("nan"), float("nan")], pa.nulls(2)]
)
def test_a_split_without_scores(scores: Any, encoder: TextEncoder) -> None:
    toy = task([0, 5])
    assert toy.check(table(scores), labelled=False) == []
    assert toy.references(table(scores)) is None
    assert "no score" in toy.check(table(scores), labelled=True)[0].what
    features = toy.encode(table(scores), encoder)
    assert (
        np.isnan(features.columns["score"]).all() and features.columns["score"].dtype == np.float32
    )
    assert toy.items(features, np.arange(2)) == 0


def test_a_test_split_is_scored_wholly_or_not_at_all() -> None:
    (problem,) = task().check(table([1.0, None]), labelled=False)
    assert "other rows" in problem.what
    bare = Table(pa.table({"text": ["a"]}), "x", "test")
    assert task().check(bare, labelled=False) == [] and task().references(bare) is None


def test_loss_is_the_summed_squared_error_of_scored_rows(encoder: TextEncoder) -> None:
    toy = task()
    features = toy.encode(table([1.0, None, 4.0]), encoder)
    batch = collate(features, np.arange(3), input_format=InputFormat(0, False), denominator=2)
    logits = torch.tensor([[0.5], [9.0], [1.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = toy.loss({"logits": logits}, batch)
    assert loss.dtype == torch.float32 and loss.item() == 0.5**2 + 3**2
    loss.backward()
    assert logits.grad is not None and logits.grad.flatten().tolist() == [-1.0, 0.0, -6.0]
    assert toy.items(features, np.arange(3)) == 2


def test_predictions_are_in_row_order(encoder: TextEncoder) -> None:
    toy = task()
    rows = table([1.0, 2.0, 3.0])
    features = toy.encode(rows, encoder)
    features.columns["row"] = np.array([2, 0, 1])
    predictions = toy.decode(
        {"logits": np.array([[0.25], [7.5], [-1.0]], dtype=np.float32)}, features, rows
    )
    assert predictions == [{"score": 7.5}, {"score": -1.0}, {"score": 0.25}]
    assert toy.metric_inputs("pearson", predictions) == {"predictions": [7.5, -1.0, 0.25]}
    assert toy.references(rows) == [1.0, 2.0, 3.0]
    assert toy.majority([1.0, 2.0], "pearson") == 0.0
    with pytest.raises(RunError, match="not finite"):
        toy.decode({"logits": np.array([[0.0], [np.inf], [0.0]])}, features, rows)


def test_the_head_starts_at_the_mean_train_score() -> None:
    toy = task([0, 5])
    toy.prepare(table([1.0, 2.0, 4.5]))
    bias = [
        p
        for name, p in toy.build_head(8, 0.1, dense=True, std=0.02).named_parameters()
        if name == "output.bias"
    ]
    assert bias[0].item() == pytest.approx(2.5)
    words = task()
    words.prepare(table(["good", "bad"]))  # Not numbers: the row check says so, later.
    assert words.build_head(8, 0.1, dense=False, std=0.02).output.bias.item() == 0.0  # type: ignore[union-attr, operator]


def test_rows_with_a_score_are_found() -> None:
    for scores in ([1.0, None, float("nan"), 2.0], ["1", None, "NaN", "good"], [1, None, None, -1]):
        assert task().labelled(table(scores)).tolist() == [True, False, False, True]
    assert task().labelled(table([True, None])).all(), (
        "a column of the wrong type is refused, not left out"
    )
