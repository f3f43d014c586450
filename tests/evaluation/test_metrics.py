"""Metrics over class ids and real numbers: by hand, against plain formulas, and as `evaluate.Metric` modules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mtlcli.errors import UserError
from mtlcli.evaluation import metrics
from mtlcli.evaluation.metrics import compute, keys, main_key, metric_names

SIMPLE = ["accuracy", "f1", "matthews", "pearson", "spearman"]
QUESTIONS = [
    {"id": "a", "answers": {"text": ["the cat", "a cat sat"], "answer_start": [0, 3]}},
    {"id": "b", "answers": {"text": [], "answer_start": []}},
]
ANSWERS = [
    {"id": "a", "prediction_text": "Cat!", "no_answer_probability": 0.25},
    {"id": "b", "prediction_text": "dog", "no_answer_probability": 0.75},
]


def example(name: str) -> tuple[list[Any], list[Any]]:
    if name == "squad":
        return [{key: ANSWERS[0][key] for key in ("id", "prediction_text")}], QUESTIONS[:1]
    if name == "squad_v2":
        return ANSWERS, QUESTIONS
    return [0, 1, 1, 0, 1], [0, 1, 0, 0, 1]


def test_values_by_hand() -> None:
    # Of class 1: 2 found, 1 too many, 1 missed; of class 0: 1 found.
    predictions, references = [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]
    assert compute("accuracy", predictions, references) == {"accuracy": 0.6}
    assert compute("f1", predictions, references) == {"f1": pytest.approx(2 / 3)}
    assert compute("matthews", predictions, references) == {"matthews": pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)}
    # Deviations (-1, 0, 1) and (-4/3, -1/3, 5/3): covariance 3, squares 2 and 14/3.
    assert compute("pearson", [1.0, 2.0, 3.0], [0.0, 1.0, 3.0]) == {"pearson": pytest.approx(3 / (2 * 14 / 3) ** 0.5)}
    # Ranks (1, 2.5, 2.5, 4) and (1, 2, 3, 4): deviations multiply to 4.5, squares 4.5 and 5.
    assert compute("spearman", [0.0, 5.0, 5.0, 9.0], [1.0, 2.0, 3.0, 4.0]) == {"spearman": pytest.approx(4.5 / (4.5 * 5) ** 0.5)}


def test_f1_is_of_class_1_for_two_classes_and_the_mean_over_classes_for_more() -> None:
    assert compute("f1", [0, 0, 1], [0, 0, 0])["f1"] == 0.0
    # Class 0: precision 1/2, recall 1. Class 1: recall 0. Class 2: right.
    assert compute("f1", [0, 0, 2], [0, 1, 2])["f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    # Three classes of which the examples show two.
    assert compute("f1", [0, 0, 1], [0, 1, 1], classes=3)["f1"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert compute("f1", [0, 0, 1], [0, 1, 0], classes=3)["f1"] == pytest.approx((1 / 2 + 0) / 2)
    assert compute("f1", [0, 0, 1], [0, 1, 0])["f1"] == 0.0


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
@pytest.mark.parametrize(("predictions", "references"), [([1, 1, 1], [0, 1, 0]), ([0, 1, 0], [1, 1, 1]), ([1, 1], [1, 1]), ([1], [0])])
def test_a_constant_has_correlation_0(name: str, predictions: list[int], references: list[int]) -> None:
    assert compute(name, predictions, references) == {name: 0.0}


def plain_f1(predictions: NDArray, references: NDArray, label: int) -> float:
    right = ((predictions == label) & (references == label)).sum()
    return float(2 * right / ((predictions == label).sum() + (references == label).sum()))


def plain_ranks(values: NDArray) -> NDArray:
    """The mean of the places that equal values take."""
    return np.array([((values < value).sum() + 1 + (values <= value).sum()) / 2 for value in values])


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
        assert compute("accuracy", *inputs)["accuracy"] == pytest.approx((predictions == references).mean())
        scores = [plain_f1(predictions, references, label) for label in range(classes)]
        assert compute("f1", *inputs)["f1"] == pytest.approx(scores[1] if classes == 2 else np.mean(scores))
        # Matthews is the correlation of the one-hot codes (Gorodkin 2004).
        one_hot = [np.eye(classes)[values] - np.eye(classes)[values].mean(axis=0) for values in (predictions, references)]
        expected = (one_hot[0] * one_hot[1]).sum() / np.sqrt((one_hot[0] ** 2).sum() * (one_hot[1] ** 2).sum())
        assert compute("matthews", *inputs)["matthews"] == pytest.approx(expected)
    references = dice.integers(0, 6, 60) / 2
    predictions = references + dice.normal(size=60).round(1)
    inputs = predictions.tolist(), references.tolist()
    assert compute("pearson", *inputs)["pearson"] == pytest.approx(plain_correlation(predictions, references))
    assert compute("spearman", *inputs)["spearman"] == pytest.approx(plain_correlation(plain_ranks(predictions), plain_ranks(references)))


def test_names_keys_and_task_types() -> None:
    assert metric_names() == [*SIMPLE, "squad", "squad_v2"]
    assert metric_names("classification") == SIMPLE[:3]
    assert metric_names("regression") == SIMPLE[3:]
    assert metric_names("span") == ["squad", "squad_v2"]
    assert main_key("squad") == main_key("squad_v2") == "f1"
    with pytest.raises(UserError, match="unknown metric 'acuracy'.*\n.*did you mean 'accuracy'"):
        compute("acuracy", [1], [1])


@pytest.mark.parametrize("name", metric_names())
def test_keys_are_those_of_the_result_with_the_main_one_first(name: str) -> None:
    predictions, references = example(name)
    result = compute(name, predictions, references)
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
from mtlcli.evaluation.metrics import compute, keys, main_key, metric_names
[keys(name) + [main_key(name)] for name in metric_names()]
assert not {"sklearn", "scipy", "evaluate", "datasets", "torch", "numpy"} & set(sys.modules)
compute("f1", [1, 0], [1, 1])
assert not {"evaluate", "datasets", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


WITH_EVALUATE = """
import json, sys
from pathlib import Path
import evaluate
from mtlcli.evaluation import metrics
examples = json.load(sys.stdin)
found = {}
for name, (predictions, references) in examples.items():
    metric = metrics.load(name)
    assert isinstance(metric, evaluate.Metric) and metric.name == name
    assert metric.description and metric.citation and metric.inputs_description
    found[name] = metric.compute(predictions=predictions, references=references)
    for prediction, reference in zip(predictions, references):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == found[name]
found["f1 of 3"] = metrics.load("f1").compute(predictions=[0, 0, 1], references=[0, 1, 0], classes=3)
found["squad_v2 at 0.5"] = metrics.load("squad_v2").compute(predictions=predictions, references=references, no_answer_threshold=0.5)
assert list(Path.home().iterdir()) == [], "metrics.load leaves nothing behind"
for name, (predictions, references) in examples.items():
    by_path = evaluate.load(str(Path(metrics.__file__).with_name(name + ".py")))
    assert by_path.compute(predictions=predictions, references=references) == found[name]
print(json.dumps(found))
"""


def test_as_evaluate_modules_they_give_the_same_offline_and_leave_nothing_behind(tmp_path: Path) -> None:
    examples = {name: example(name) for name in metric_names()}
    environment = {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(metrics.__file__).parents[3])
    command = [sys.executable, "-c", WITH_EVALUATE]
    done = subprocess.run(command, check=True, env=environment, input=json.dumps(examples), stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    for name, (predictions, references) in examples.items():
        assert found[name] == compute(name, predictions, references)
    assert found["f1 of 3"] == compute("f1", [0, 0, 1], [0, 1, 0], classes=3)
    assert found["squad_v2 at 0.5"] == compute("squad_v2", ANSWERS, QUESTIONS, no_answer_threshold=0.5)
