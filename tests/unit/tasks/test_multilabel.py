"""Multi-label tasks: the ways to write labels, row checks, loss, predictions and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer
from torch.nn import BCEWithLogitsLoss

from mtlcli.config.task import Source
from mtlcli.data.batches import InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Split
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.evaluation.evaluate import score
from mtlcli.tasks.multilabel import MultilabelColumns, MultilabelTask
from mtlcli.tasks.multilabel.task import Multilabel

NAMES = ["fear", "joy", "love"]
SETS = [["joy", "love"], [], ["fear"], None]
NAMED = '{"info": {"features": {"labels": {"feature": {"names": ["fear", "joy", "love"]}}}}}'
FLAGS = {"fear": ["0", "0", "1", ""], "joy": [1, 0, 0, None], "love": [1.0, 0.0, 0.0, -1.0]}


def task(label: Any = "labels", **options: Any) -> Multilabel:
    columns = MultilabelColumns(text="text", label=label)
    return Multilabel(
        "toy", MultilabelTask(source=Source(path="x"), columns=columns, max_length=16, **options)
    )


def table(columns: dict[str, Any], metadata: str | None = None) -> Table:
    count = len(next(iter(columns.values())))
    rows = pa.table({"text": [f"text {number}" for number in range(count)], **columns})
    extra = {"huggingface": metadata} if metadata else None
    return Table(rows.replace_schema_metadata(extra), "toy.jsonl", "train")


def prepared(columns: dict[str, Any], metadata: str | None = None, **options: Any) -> Multilabel:
    made = task(**options)
    made.prepare(table(columns, metadata))
    return made


def encoder() -> TextEncoder:
    return TextEncoder(build_tokenizer(["text 0 1 2 3"] * 3, 60), uses_segments=False)


def faults(columns: dict[str, Any], **options: Any) -> list[str]:
    made, rows = task(**options), table(columns)
    made.prepare(rows)
    return [str(problem) for problem in made.check(rows, labelled=True)]


@pytest.mark.parametrize(
    ("columns", "metadata", "options"),
    [
        ({"labels": SETS}, None, {}),
        ({"labels": [[1, 2], [], [0], None]}, NAMED, {}),
        ({"labels": [[1, 2], [], [0], None]}, None, {"labels": NAMES}),
        (FLAGS, None, {"label": NAMES}),
        (FLAGS, None, {"label": ["fear", "joy", "love"], "labels": NAMES}),
    ],
)
def test_every_way_to_write_labels_means_the_same(
    columns: dict[str, Any], metadata: str | None, options: dict[str, Any]
) -> None:
    made = prepared(columns, metadata, unlabelled="skip", **options)
    rows = table(columns, metadata)
    assert made.labels == NAMES and made.gold(rows) == SETS
    assert made.labelled(rows).tolist() == [True, True, True, False]
    assert made.check(rows, labelled=True) == []
    features = made.encode(rows, encoder())
    wanted = [[0, 1, 1], [0, 0, 0], [1, 0, 0], [-1, -1, -1]]
    assert features.columns["labels"].tolist() == wanted
    assert made.items(features, np.arange(4)) == 3


def test_labels_in_text_are_cut_at_the_separator() -> None:
    columns = {"labels": ["joy; love", "fear", None, " "]}
    made = prepared(columns, separator=";")
    assert made.gold(table(columns)) == [["joy", "love"], ["fear"], None, None]


@pytest.mark.parametrize(
    ("columns", "options", "what", "fix"),
    [
        (
            {"labels": [["a"], ["b", "x"]]},
            {"labels": ["a", "b"]},
            "row 2: label 'x' is not one",
            "a, b",
        ),
        ({"labels": [[0], [2]]}, {"labels": ["a", "b"]}, "row 2: label '2' is not one", "a, b"),
        ({"labels": [["a"], [None]]}, {}, "row 2: an entry of column 'labels' is empty", "a"),
        ({"labels": [["a"], None]}, {}, "row 2: the row has no labels", "unlabelled=skip"),
        ({"labels": ["a;b", "a"]}, {}, "holds text ('a;b')", "tasks.toy.separator=';'"),
        ({"labels": [1, 2]}, {}, "holds whole numbers (1)", "columns.label"),
        ({"labels": [None, None]}, {}, "no row of the 2 has a label", "columns.label"),
        (
            {"a": [0, 2]},
            {"label": ["a"]},
            "row 2: column 'a' holds 2, where 0 or 1",
            "columns.label",
        ),
        (
            {"a": [0, 1], "b": [1, None]},
            {"label": ["a", "b"]},
            "row 2: column 'b' is empty",
            "each",
        ),
        (
            {"labels": [["a"], ["b"]]},
            {"pos_weight": {"c": 2.0}},
            "there is no class 'c'",
            "a, b",
        ),
    ],
)
def test_bad_rows_are_refused(
    columns: dict[str, Any], options: dict[str, Any], what: str, fix: str
) -> None:
    found = faults(columns, **options)
    assert len(found) == 1 and what in found[0] and fix in found[0], found


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"class_weights": [1.0, 3.0, 0.5]},
        {"pos_weight": {"joy": 4.0}},
        {"pos_weight": "balanced"},
    ],
)
def test_the_loss_is_that_of_torch(weights: dict[str, Any]) -> None:
    columns = {"labels": [*SETS, ["joy", "fear"], ["joy"]]}
    made = prepared(columns, unlabelled="skip", **weights)
    features = made.encode(table(columns), encoder())
    batch = collate(features, np.arange(6), input_format=InputFormat(0, False), denominator=5.0)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    known = [0, 1, 2, 4, 5]
    arguments = {
        "class_weights": {"weight": torch.tensor([1.0, 3.0, 0.5])},
        "balanced": {"pos_weight": torch.tensor([3 / 2, 2 / 3, 4 / 1])},
        "pos_weight": {"pos_weight": torch.tensor([1.0, 4.0, 1.0])},
        "": {},
    }
    key = "balanced" if weights.get("pos_weight") == "balanced" else next(iter(weights), "")
    truth = MultiLabelBinarizer(classes=NAMES).fit_transform(
        [labels for labels in columns["labels"] if labels is not None]
    )
    wanted = BCEWithLogitsLoss(**arguments[key])(logits[known], torch.tensor(truth).float())
    found = made.loss({"logits": logits}, batch) / made.items(features, np.arange(6))
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    # bf16 logits are computed in fp32.
    assert made.loss({"logits": logits.bfloat16()}, batch).dtype == torch.float32


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth = random.random((60, 3)) < (0.3, 0.5, 0.1)
    columns = {"labels": [[NAMES[i] for i in np.flatnonzero(row)] for row in truth]}
    made, rows = prepared(columns, threshold=0.6), table(columns)
    features = made.encode(rows, encoder())
    logits = random.normal(size=(60, 3)) + 2 * truth
    found = score(made, {"logits": logits}, Split(rows, features))
    predicted = 1 / (1 + np.exp(-logits)) >= 0.6
    assert found.metrics == {
        "f1_micro": pytest.approx(f1_score(truth, predicted, average="micro")),
        "f1_macro": pytest.approx(f1_score(truth, predicted, average="macro")),
        "subset_accuracy": pytest.approx(accuracy_score(truth, predicted)),
    }
    sets = [prediction["labels"] for prediction in found.predictions]
    assert (MultiLabelBinarizer(classes=NAMES).fit_transform(sets) == predicted).all()


@pytest.mark.parametrize("metric", ["f1_micro", "f1_macro", "subset_accuracy", "recall_micro"])
def test_the_majority_is_the_best_constant_set(metric: str) -> None:
    from itertools import product

    from mtlcli.metrics import compute

    random = np.random.default_rng(3)
    references = (random.random((25, 3)) < (0.4, 0.3, 0.2)).astype(int).tolist()
    made = prepared({"labels": SETS})
    options = {} if metric == "subset_accuracy" else {"classes": 3}
    best = max(
        compute(metric, [list(constant)] * 25, references, **options)[metric]
        for constant in product((0, 1), repeat=3)
    )
    assert made.majority(references, metric) == pytest.approx(best)
