"""Predictions of a saved run for new rows, from Python: they are those of an evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mtlcli
from mtlcli.errors import UserError
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.predict.predictor import Predictor
from tests.small_run import start

TASKS = "task=[cola,sst2,stsb,rte,squad_v2,conll2003,copa,go_emotions,ms_marco,semeval2010_task8]"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a task of each type, with the predictions of an evaluation in `p`."""
    place = tmp_path_factory.mktemp("predict")
    more = ("data.max_length=48", "runner.steps=2", "sampling=all", "sharing=hard")
    start(place / "run", TASKS, *more)
    evaluate_path(
        place / "run", predictions=place / "p", texts=True, overrides=["data.max_eval_rows=40"]
    )
    return place / "run"


@pytest.fixture(scope="module")
def model(run: Path) -> Predictor:
    return mtlcli.load(run)


def evaluated(run: Path, task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows that an evaluation has read, and its predictions."""
    lines = [json.loads(line) for line in (run.parent / "p" / f"{task}.jsonl").open()]
    rows = [line["texts"] | ({"id": line["id"]} if "id" in line else {}) for line in lines]
    around = ("row", "id", "words", "cluster", "texts", "gold")
    return rows, [{k: v for k, v in line.items() if k not in around} for line in lines]


def test_predictions_are_those_of_an_evaluation(run: Path, model: Predictor) -> None:
    for task in model.tasks:
        rows, wanted = evaluated(run, task)
        found = model.predict(rows, task)
        assert len(found) == 40
        for one, other in zip(found, wanted, strict=True):
            for entity in one.get("entities", ()):
                del entity["start"], entity["end"]
            assert {key: one[key] for key in other} == other, task


def test_tasks_of_one_pass_predict_what_each_predicts_alone(run: Path, model: Predictor) -> None:
    rows, _ = evaluated(run, "sst2")
    assert model.passes(["sst2", "conll2003", "cola"]) == [["sst2", "cola"], ["conll2003"]]
    together = model.predict(rows, ["sst2", "cola"])
    assert together == {name: model.predict(rows, name) for name in ("sst2", "cola")}


def near(one: Any, other: Any) -> bool:
    """Whether two predictions differ by rounding alone."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return bool(one == pytest.approx(other, abs=1e-5)) if isinstance(one, float) else one == other


def test_inputs_that_share_batches_predict_what_each_predicts_alone(
    run: Path, model: Predictor
) -> None:
    for task in model.tasks:
        rows, _ = evaluated(run, task)
        parts = [model.read(rows[begin:end], [task]) for begin, end in ((0, 3), (3, 4), (4, 9))]
        together = [each[task].predictions for each in model.answer_together(parts)]
        alone = [model.answer(part)[task].predictions for part in parts]
        assert [len(each) for each in together] == [3, 1, 5] and near(together, alone), task
    # A row that cannot be read, in an input that asks for more.
    some = [model.read(["x", " "], ["sst2", "cola"]), model.read(["y"], ["sst2", "cola"])]
    first, second = model.answer_together(some)
    for name in ("sst2", "cola"):
        assert near(first[name].predictions[0], model.predict(["x"], name)[0])
        assert first[name].predictions[1] is None and list(first[name].faults) == [1]
        assert near(second[name].predictions, model.predict(["y"], name))


def test_each_form_of_input(model: Predictor) -> None:
    rte = {"sentence1": "a dog", "sentence2": "a cat"}
    assert model.predict([tuple(rte.values())], "rte") == model.predict([rte], "rte")
    (found,) = model.predict(["Anna met  Bob-Ray."], "conll2003")
    assert found["words"] == ["Anna", "met", "Bob", "-", "Ray", "."]
    for entity in found["entities"]:
        assert "Anna met  Bob-Ray."[entity["start"] : entity["end"]] == entity["text"]
    words = model.predict([{"tokens": found["words"]}], "conll2003")[0]
    assert words["tags"] == found["tags"]
    question = {"question": "who?", "context": "  Anna is here"}
    (answer,) = model.predict([question], "squad_v2")
    if answer["text"]:
        assert question["context"][answer["start"] : answer["end"]] == answer["text"]
    assert answer["no_answer"] == (answer["text"] == "") and answer["id"] == "1"
    vectors = model.encode(["a dog", "a cat", "a dog"])
    assert vectors.shape == (3, 16) and np.allclose(vectors[0], vectors[2], atol=1e-6)


def test_inputs_that_cannot_be_read_are_named(model: Predictor) -> None:
    heard: list[tuple[int, str]] = []
    found = model.predict(
        ["fine", " ", "good", None, 5],  # type: ignore[list-item]
        "cola",
        on_fault=lambda row, problem: heard.append((row, problem.what)),
    )
    assert [each is None for each in found] == [False, True, False, True, True]
    assert [row for row, _ in heard] == [1, 3, 4]
    assert "column 'sentence' is empty or missing" in heard[0][1]
    for inputs, task, text in (
        ([" "], "cola", "input, row 1: task cola: column 'sentence' is empty"),
        (["alone"], "rte", "input, row 1: task rte takes 2 values (sentence1, sentence2)"),
        ([{"text": "x"}], "cola", "there is no column 'sentence'"),
        (["x"], "colo", "the model has no task 'colo'\n    -> did you mean"),
        (["x"], None, "the model has 10 tasks, and none is named"),
    ):
        with pytest.raises(UserError) as caught:
            model.predict(inputs, task)
        assert text in str(caught.value)
    with pytest.raises(UserError, match="plays no part in a prediction"):
        mtlcli.load(model.path, overrides=["data.max_eval_rows=3"])
    assert model.predict([], "cola") == []


def test_training_from_python_and_a_light_import(tmp_path: Path) -> None:
    code = (
        "import sys, mtlcli\n"
        "assert not {'torch', 'hydra', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "done = mtlcli.train(['task=cola', 'data=sample', 'model=tiny', 'model.layers=1',"
        " 'model.hidden=16', 'model.heads=2', 'runner.steps=1', 'data.max_eval_rows=4',"
        " 'data.max_train_rows=8', 'runner.device=cpu', 'logger.console=plain'], run_dir='run')\n"
        "print(done.results['tasks']['cola']['main_metric'], done.load().predict(['x'])[0].keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "matthews dict_keys(['label', 'probabilities'])"
