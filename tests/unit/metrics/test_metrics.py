"""Metrics over class ids and real numbers: by hand, against plain formulas and scikit-learn, and
those of the package `evaluate`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mtlcli import metrics
from mtlcli.config import task_types
from mtlcli.errors import UserError
from mtlcli.metrics import compute, keys, main_key, metric_names

QUESTIONS = [
    {"id": "a", "answers": {"text": ["the cat", "a cat sat"], "answer_start": [0, 3]}},
    {"id": "b", "answers": {"text": [], "answer_start": []}},
]
ANSWERS = [
    {"id": "a", "prediction_text": "Cat!", "no_answer_probability": 0.25},
    {"id": "b", "prediction_text": "dog", "no_answer_probability": 0.75},
]


OPTIONS = {"group_exact_match": {"groups": [1, 1, 2, 2, 3]}}


def example(name: str) -> tuple[list[Any], list[Any]]:
    if name == "squad":
        return [{key: ANSWERS[0][key] for key in ("id", "prediction_text")}], QUESTIONS[:1]
    if name == "squad_v2":
        return ANSWERS, QUESTIONS
    kind = metrics.entry(name).task_types[0]
    if kind in ("classification", "regression"):
        return [0, 1, 1, 0, 1], [0, 1, 0, 0, 1]
    found: tuple[list[Any], list[Any]] = task_types.implementation(kind).example
    return found


def test_values_by_hand() -> None:
    # Of class 1: 2 found, 1 too many, 1 missed; of class 0: 1 found.
    predictions, references = [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]
    assert compute("accuracy", predictions, references) == {"accuracy": 0.6}
    assert compute("f1", predictions, references) == {"f1": pytest.approx(2 / 3)}
    assert compute("matthews", predictions, references) == {
        "matthews": pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)
    }
    # Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): covariance 3, squares 2 and 14/3.
    assert compute("pearson", [1.0, 2.0, 3.0], [0.0, 1.0, 3.0]) == {
        "pearson": pytest.approx(3 / (2 * 14 / 3) ** 0.5)
    }
    # Ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4): deviations multiply to 4.5, squares 4.5 and 5.
    assert compute("spearman", [0.0, 5.0, 5.0, 9.0], [1.0, 2.0, 3.0, 4.0]) == {
        "spearman": pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    }


def test_f1_is_of_class_1_for_two_classes_and_the_mean_over_classes_for_more() -> None:
    assert compute("f1", [0, 0, 1], [0, 0, 0])["f1"] == 0.0
    # Class 0: precision 1/2, recall 1. Class 1: recall 0. Class 2: right.
    assert compute("f1", [0, 0, 2], [0, 1, 2])["f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    # Three classes of which the examples show two.
    assert compute("f1", [0, 0, 1], [0, 1, 1], classes=3)["f1"] == pytest.approx(
        (2 / 3 + 2 / 3) / 2
    )
    assert compute("f1", [0, 0, 1], [0, 1, 0], classes=3)["f1"] == pytest.approx((1 / 2 + 0) / 2)
    assert compute("f1", [0, 0, 1], [0, 1, 0])["f1"] == 0.0


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
@pytest.mark.parametrize(
    ("predictions", "references"),
    [([1, 1, 1], [0, 1, 0]), ([0, 1, 0], [1, 1, 1]), ([1, 1], [1, 1]), ([1], [0])],
)
def test_a_constant_has_correlation_0(
    name: str, predictions: list[int], references: list[int]
) -> None:
    assert compute(name, predictions, references) == {name: 0.0}


def plain_f1(predictions: NDArray, references: NDArray, label: int) -> float:
    right = ((predictions == label) & (references == label)).sum()
    return float(2 * right / ((predictions == label).sum() + (references == label).sum()))


def plain_ranks(values: NDArray) -> NDArray:
    """The mean of the places that equal values take."""
    return np.array(
        [((values < value).sum() + 1 + (values <= value).sum()) / 2 for value in values]
    )


def plain_correlation(first: NDArray, second: NDArray) -> float:
    first, second = first - first.mean(), second - second.mean()
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum()))


@pytest.mark.parametrize("seed", range(5))
def test_against_plain_formulas(seed: int) -> None:
    dice = np.random.default_rng(seed)
    for classes in (2, 4):
        references = dice.integers(0, classes, 60)
        predictions = np.where(dice.random(60) < 0.5, references, dice.integers(0, classes, 60))
        inputs = predictions.tolist(), references.tolist()
        assert compute("accuracy", *inputs)["accuracy"] == pytest.approx(
            (predictions == references).mean()
        )
        scores = [plain_f1(predictions, references, label) for label in range(classes)]
        assert compute("f1", *inputs)["f1"] == pytest.approx(
            scores[1] if classes == 2 else np.mean(scores)
        )
        # Matthews is the correlation of the one-hot codes (Gorodkin 2004).
        one_hot = [
            np.eye(classes)[values] - np.eye(classes)[values].mean(axis=0)
            for values in (predictions, references)
        ]
        expected = (one_hot[0] * one_hot[1]).sum() / np.sqrt(
            (one_hot[0] ** 2).sum() * (one_hot[1] ** 2).sum()
        )
        assert compute("matthews", *inputs)["matthews"] == pytest.approx(expected)
    references = dice.integers(0, 6, 60) / 2
    predictions = references + dice.normal(size=60).round(1)
    inputs = predictions.tolist(), references.tolist()
    assert compute("pearson", *inputs)["pearson"] == pytest.approx(
        plain_correlation(predictions, references)
    )
    assert compute("spearman", *inputs)["spearman"] == pytest.approx(
        plain_correlation(plain_ranks(predictions), plain_ranks(references))
    )


def test_names_keys_and_task_types() -> None:
    averaged = [
        f"{name}{average}"
        for name in ("f1", "precision", "recall")
        for average in ("", "_macro", "_micro")
    ]
    assert metric_names("classification") == [
        *("accuracy", "group_exact_match"),
        *averaged,
        "matthews",
    ]
    assert metric_names("regression") == ["pearson", "spearman", "mae", "rmse"]
    falling = {name for name, entry in metrics.table().items() if not entry.rises}
    assert falling == {"mae", "rmse", "perplexity"}
    assert metric_names("span") == ["squad", "squad_v2"]
    assert main_key("squad") == main_key("squad_v2") == "f1"
    with pytest.raises(UserError, match="unknown metric 'acuracy'.*\n.*did you mean 'accuracy'"):
        compute("acuracy", [1], [1])


@pytest.mark.parametrize("name", metric_names())
def test_keys_are_those_of_the_result_with_the_main_one_first(name: str) -> None:
    predictions, references = example(name)
    result = compute(name, predictions, references, **OPTIONS.get(name, {}))
    assert list(result)[0] == main_key(name) == keys(name)[0]
    assert set(result) == set(keys(name))
    assert all(type(value) is float for value in result.values())


@pytest.mark.parametrize("name", metric_names())
def test_empty_and_unequal_inputs_are_refused(name: str) -> None:
    predictions, references = example(name)
    with pytest.raises(ValueError, match="no examples"):
        compute(name, [], [])
    with pytest.raises(ValueError, match="predictions for"):
        compute(name, predictions, references * 2)


def test_the_table_is_read_without_heavy_imports_and_computing_does_not_import_evaluate() -> None:
    code = """
import sys
from mtlcli.metrics import compute, keys, main_key, metric_names
[keys(name) + [main_key(name)] for name in metric_names()]
assert not {"sklearn", "scipy", "evaluate", "datasets", "torch", "numpy"} & set(sys.modules)
compute("f1", [1, 0], [1, 1])
assert not {"evaluate", "datasets", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("classes", [2, 4])
def test_precision_recall_f1_and_errors_are_those_of_scikit_learn(classes: int) -> None:
    from sklearn import metrics as theirs

    dice = np.random.default_rng(classes)
    references = dice.integers(0, classes, 200)
    predictions = np.where(dice.random(200) < 0.6, references, dice.integers(0, classes, 200))
    inputs = predictions.tolist(), references.tolist()
    plain = {"average": "binary" if classes == 2 else "macro"}
    for name in ("precision", "recall", "f1"):
        score = getattr(theirs, f"{name}_score")
        assert compute(name, *inputs) == {name: score(references, predictions, **plain)}
        for average in ("macro", "micro"):
            assert compute(f"{name}_{average}", *inputs) == {
                f"{name}_{average}": score(references, predictions, average=average)
            }
    # A class that is never predicted, and one that does not occur, score 0, without a warning.
    assert compute("precision_macro", [0, 0, 2], [0, 1, 1]) == {
        "precision_macro": pytest.approx(0.5 / 3)
    }
    assert compute("recall_macro", [0, 0, 2], [0, 1, 1]) == {"recall_macro": pytest.approx(1 / 3)}
    real = dice.normal(size=200), dice.normal(size=200)
    assert compute("mae", *real) == {"mae": theirs.mean_absolute_error(real[1], real[0])}
    assert compute("rmse", *real) == {
        "rmse": pytest.approx(theirs.root_mean_squared_error(real[1], real[0]), rel=1e-12)
    }


OUTSIDE = """
import datasets
import evaluate


class Share(evaluate.Metric):
    def _info(self):
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description="d",
            citation="c",
            inputs_description="i",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(self, predictions, references):
        right = sum(one == other for one, other in zip(predictions, references))
        return {"share": right / len(references), "right": right, "text": "no number"}
"""
LOAD = """
from mtlcli.errors import UserError
from mtlcli.metrics import compute
from mtlcli.metrics.outside import check
check("evaluate:share", "classification", [0, 1, 1], [0, 1, 0])
print(compute("evaluate:share", [1, 0], [1, 1]))
SPANS = [{"id": "a", "prediction_text": "b"}], [{"id": "a", "answers": {"text": ["b"]}}]
for name, kind in (("evaluate:share", "span"), ("evaluate:nosuch", "regression")):
    try:
        check(name, kind, *SPANS)
    except UserError as error:
        print(str(error).splitlines()[0])
"""


def test_a_metric_of_the_package_evaluate(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "share.py").write_text(OUTSIDE)
    environment = {
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(metrics.__file__).parents[2]),
    }
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(
        command, cwd=tmp_path, check=True, env=environment, capture_output=True, text=True
    )
    scores, span, nosuch = done.stdout.splitlines()
    assert scores == "{'evaluate:share.share': 0.5, 'evaluate:share.right': 1.0}"
    assert span.startswith("evaluate:share: the metric cannot score a span task: ")
    assert nosuch.startswith("evaluate:nosuch: the metric cannot be loaded: ")
