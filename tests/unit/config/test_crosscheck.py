"""Values that are valid one by one and do not go together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mtlcli.config import weightings
from mtlcli.config.crosscheck.tasks import untyped_code
from mtlcli.config.missing import missing_files, missing_model
from mtlcli.config.schema import QUOTE_NUMBERS, QUOTE_TRUTHS
from mtlcli.config.validate import check, validate
from mtlcli.metrics import metric_names

TEXT = {"type": "classification", "source": {"path": "p", "hub": "h"}, "columns": {"text": "t"}}
TAGS = {"type": "tagging", "source": {"path": "p"}}


def run(tasks: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {
        "tasks": tasks,
        "sharing": {"name": "hard"},
        "weighting": {"name": "static"},
        "sampling": {"name": "all"},
        **sections,
    }


def said(values: dict[str, Any]) -> list[str]:
    return [str(problem).replace("\n    -> ", " -> ") for problem in check(values)[1]]


def test_only_what_is_typed_runs_the_code_of_a_metric() -> None:
    config = validate(run({"a": {**TEXT, "metrics": ["f1", "evaluate:some/metric"]}}))
    (problem,) = untyped_code(config, ["task=a"])
    assert str(problem).replace("\n    -> ", " -> ") == (
        "tasks.a.metrics: 'evaluate:some/metric' runs the code of that metric, so a file alone "
        "cannot ask for it -> if you trust it, type "
        "\"tasks.a.metrics=[f1, 'evaluate:some/metric']\""
    )
    assert untyped_code(config, ["tasks.a.metrics=[f1, 'evaluate:some/metric']"]) == []


def test_a_valid_config_has_no_problems() -> None:
    assert (
        said(
            run({"a": TEXT, "b": {**TEXT, "head": "a", "labels": None, "splits": {"train": None}}})
        )
        == []
    )


CLASSES = ", ".join(sorted(metric_names("classification")))
HALF = {"fraction": 0.5}
HELD = {"hold_out": {"fraction": 0.2}}
FILES = {**TEXT, "source": {"files": {"train": "t.csv"}}}
CALIBRATED = {**TEXT, "source": {"files": {"train": "t.csv", "calibration": "c.csv"}}}
TASKS: list[tuple[dict[str, Any], list[str]]] = [
    ({"a": {**FILES, "splits": HELD}}, []),
    (
        {"a": FILES},
        [
            "tasks.a.splits.validation: source.files has no split 'validation' -> choices: train; "
            "or keep rows of train: tasks.a.splits.hold_out.fraction=0.1"
        ],
    ),
    (
        {"a": {**FILES, "splits": HELD | {"train": None}}, "b": TEXT},
        ["tasks.a.splits.hold_out: the task has no train split to keep rows of -> take it out"],
    ),
    (
        {"a": {**FILES, "splits": HELD | {"validation": []}}},
        [
            "tasks.a.splits.hold_out: the rows that are kept have no name -> type "
            "'tasks.a.splits.validation=[validation]', or take it out"
        ],
    ),
    (
        {"a": {**FILES, "splits": HELD | {"validation": ["train"]}}},
        [
            "tasks.a.splits.hold_out: split 'train' has rows of its own, and rows of train would "
            "take its place -> take it out, or give the rows that are kept another name: "
            "tasks.a.splits.validation"
        ],
    ),
    (
        {"a": {**TEXT, "splits": {"train": None, "calibration": HALF}}, "b": TEXT},
        ["tasks.a.splits.calibration: the task has no train split to keep rows of -> take it out"],
    ),
    (
        {"a": {**CALIBRATED, "splits": {"validation": [], "calibration": HALF}}},
        [
            "tasks.a.splits.calibration: split 'calibration' has rows of its own, and rows of "
            "train would take its place -> take it out, or give that split another name"
        ],
    ),
    (
        {"a": {"type": "span", "source": {"path": "s"}, "no_answer_threshold": "auto"}},
        [],
    ),
    (
        {
            "a": {
                "type": "span",
                "source": {"path": "s"},
                "no_answer": True,
                "no_answer_threshold": "auto",
            }
        },
        [
            "tasks.a.no_answer_threshold: no rows are kept to choose the threshold on -> type "
            "tasks.a.splits.calibration.fraction=0.05, or give a number"
        ],
    ),
    (
        {
            "a": {
                **TEXT,
                "source": {"files": {"train": "t.jsonl.gz"}, "header": ["t", "label"]},
                "splits": HELD,
            }
        },
        [
            "tasks.a.source.header: names of columns have no effect on 't.jsonl.gz': a .jsonl file "
            "has its own -> take it out"
        ],
    ),
    (
        {"a": TEXT, "b": {**TEXT, "head": "aa"}},
        ["tasks.b.head: task 'aa' is not in the run -> did you mean 'a'? choices: a"],
    ),
    ({"a": {**TEXT, "head": "a"}}, ["tasks.a.head: a task cannot use its own head by name -> add "
    "the task to the run, or set it to null"]),
    (
        {"a": TEXT, "b": {"type": "span", "source": {"path": "s"}, "head": "a"}},
        ["tasks.b.head: a span task cannot use the head of the classification task 'a' -> name a "
         "task of the same type, or null"],
    ),
    (
        {"a": TEXT, "b": {**TEXT, "head": "a"}, "c": {**TEXT, "head": "b"}},
        ["tasks.c.head: task 'b' has no head of its own -> head: a"],
    ),
    (
        {"a": {**TEXT, "labels": ["x", "y"]}, "b": {**TEXT, "head": "a", "labels": ["y", "x"]}},
        ["tasks.b.labels: the labels differ from those of 'a', whose head the task uses -> leave "
         "them out"],
    ),
    (
        {"a": {**TEXT, "metrics": ["acuracy", "pearson"]}},
        [
            "tasks.a.metrics: unknown metric 'acuracy' -> did you mean 'accuracy'? choices: "
            f"{CLASSES}",
            "tasks.a.metrics: 'pearson' does not score a classification task -> choices: "
            f"{CLASSES}",
        ],
    ),
    (
        {"a": {**TEXT, "metrics": ["Macro-F1"]}},
        ["tasks.a.metrics: unknown metric 'Macro-F1' -> did you mean 'f1_macro'? choices: "
         f"{CLASSES}"],
    ),
    (
        {"a": {**TEXT, "type": "regression", "metrics": ["rmse", "spearman", "mae"]}},
        ["tasks.a.metrics: 'rmse' falls as predictions get better; the first metric must rise: it "
         "chooses the best checkpoint and is "
         "averaged over tasks -> put another one first, for example [spearman, rmse, mae]"],
    ),
    (
        {"a": {**TEXT, "metrics": ["evaluate:x", "f1", "f1"]}},
        ["tasks.a.metrics: 'f1' is listed twice -> name every metric once",
         "tasks.a.metrics: 'evaluate:x' may rise or fall as predictions get better; the first "
         "metric must rise: it chooses the best "
         "checkpoint and is averaged over tasks -> put another one first, for example [f1, "
         "evaluate:x]"],
    ),
    ({"a": {**TEXT, "source": {}}}, ["tasks.a.source: the task does not say where its rows come "
                                     "from -> give files, hub or path"]),
    (
        {"a": {**TEXT, "source": {"files": {"trian": "x.csv", "validation": "y.csv"}}}},
        ["tasks.a.splits.train: source.files has no split 'train' -> did you mean 'trian'? "
         "choices: trian, validation"],
    ),
    (
        {"a": {**TEXT, "splits": {"train": None}}},
        ["task: no task of the run has a train split -> add a task that is trained, for example "
         "mnli for ax"],
    ),
    ({"a": {**TEXT, "weight": 0}}, ["tasks: every task has weight 0: nothing would be learned -> "
                                    "give one of them a weight above 0"]),
    ({"a": {**TEXT, "labels": ["x", "x"]}}, ["tasks.a.labels: a label is listed twice -> give "
                                             "every label once, in the order of the ids"]),
    *[
        ({"a": {**TEXT, "labels": labels, "class_weights": {name: 2}}}, ["tasks.a.class_weights: "
                                                                         "there is no class "
                                                                         f"'{read}' -> {fix}"])
        for labels, name, read, fix in [
            (["no", "yes"], False, "false", f"{QUOTE_TRUTHS}; choices: no, yes"),
            (["2", "010"], 8, "8", f"{QUOTE_NUMBERS}; choices: 010, 2"),
            (["1.50", "2"], 1.5, "1.5", f"{QUOTE_NUMBERS}; choices: 1.50, 2"),
            (["bad", "good"], "godo", "godo", "did you mean 'good'? choices: bad, good"),
        ]
    ],
    ({"a": {**TEXT, "labels": ["true", "2"], "class_weights": {True: 3, 2: 2}}}, []),
    *[
        (
            {"a": {"type": kind, "source": {"path": "s"}, "columns": columns}},
            [f"tasks.a.columns.{second}: column 'x' is used twice: as {first} and as {second} -> "
             f"name another column here, or in tasks.a.columns.{first}"],
        )
        for kind, columns, first, second in [
            ("classification", {"text": "x", "label": "x"}, "text", "label"),
            ("regression", {"text": "x", "text_pair": "x"}, "text", "text_pair"),
            ("span", {"question": "x", "context": "x"}, "question", "context"),
        ]
    ],
    (
        {"a": {**TAGS, "crf": True, "class_weights": [1, 2]}, "b": {**TAGS, "head": "a"}},
        ["tasks.a.crf: class_weights, label_smoothing and focal_gamma change the loss of single "
         "words, and the loss of a chain is that of all its words together -> leave them out, or "
         "type tasks.a.crf=false",
         "tasks.b.crf: the value differs from that of 'a', whose head the task uses -> type "
         "tasks.b.crf=true"],
    ),
    (
        {"a": {**TEXT, "type": "regression", "range": [5, 0]}},
        ["tasks.a.range: must be two numbers, the lowest and the highest score, found [5.0, 0.0] "
         "-> for example [0, 5]"],
    ),
    (
        {"a": {"type": "span", "source": {"path": "s"}, "max_length": 128}},
        [
            "tasks.a.stride: tasks.a.max_length=128 leaves no new context in a window: 64 tokens "
            "are for the question and 128 are "
            "shared with the next window -> raise tasks.a.max_length, or lower tasks.a.stride or "
            "tasks.a.max_question_length"
        ],
    ),
    (
        {"my task": TEXT},
        [
            "tasks.my task: a task's name begins with a letter and is made of letters, digits, - "
            "and _ -> choose another name in its header: # @package tasks.NAME",
        ],
    ),
    (
        {"a": {**TEXT, "batch_size": 3}},
        ["tasks.a.batch_size: 3 examples cannot be cut into 4 parts (runner.devices=2 x "
         "runner.accumulation=2) -> type "
         "tasks.a.batch_size=4 or more"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tasks", "texts"), TASKS)
def test_tasks(tasks: dict[str, Any], texts: list[str]) -> None:
    assert said(run(tasks, runner={"devices": 2, "accumulation": 2})) == texts


RUNS: list[tuple[dict[str, Any], list[str]]] = [
    ({"runner": {"steps": None, "epochs": None}}, ["runner.steps: runner.steps and runner.epochs "
                                                   "are both null -> give one of them"]),
    (
        {"runner": {"steps": 50}, "optim": {"name": "adamw", "warmup": 100}},
        ["optim.warmup: the warm-up takes 100 of 50 steps: no step has the full learning rate -> "
         "lower it, or give a share below 1"],
    ),
    (
        {"optim": {"name": "adamw", "warmup": 1.5}},
        ["optim.warmup: 1.5 is neither a share below 1 nor a whole number of steps -> for example "
         "0.06 or 100"],
    ),
    (
        {"optim": {"name": "adamw", "betas": [0.9, 1.0]}},
        ["optim.betas: must be two numbers from 0 to below 1, found [0.9, 1.0] -> for example "
         "[0.9, 0.999]"],
    ),
    (
        {"runner": {"batch_size": 4, "devices": 2, "accumulation": 4}},
        ["runner.batch_size: 4 examples cannot be cut into 8 parts (runner.devices=2 x "
         "runner.accumulation=4) -> type "
         "runner.batch_size=8 or more"],
    ),
    (
        {"runner": {"batch_size": 4}, "weighting": {"name": "fomaml"}},
        ["runner.batch_size: 4 examples cannot be cut into 5 parts (runner.devices=1 x "
         "runner.accumulation=1 x 5 for weighting.inner_steps) -> type runner.batch_size=5 or "
         "more"],
    ),
    (
        {"data": {"shots": 4, "max_train_rows": 8}},
        ["data.shots: data.max_train_rows draws from the rows of train, too -> give one of them"],
    ),
    (
        {"runner": {"eval_every": 5, "eval_share": 0.1}},
        ["runner.eval_share: this value and runner.eval_every both say how often to evaluate -> "
         "leave one of them out"],
    ),
    (
        {"runner": {"max_tokens": 64}},
        ["runner.max_tokens: 64 tokens have no room for one input of data.max_length=128 -> type "
         "runner.max_tokens=128 or more, or lower "
         "data.max_length"],
    ),
    (
        {"data": {"source": "local"}},
        ["data.root: must be given with data.source=local -> give the folder that holds <task "
         "path>/<split>.parquet, csv, ..."],
    ),
    (
        {"model": {"kind": "pretrained", "name": None}},
        ["model.name: must be given with model.kind=pretrained -> a name on the hub, or a folder"],
    ),
    ({"model": {"hidden": 100, "heads": 3}}, ["model.heads: model.hidden=100 is not a multiple of "
                                              "3 -> change one of them"]),
]  # fmt: skip


@pytest.mark.parametrize(("sections", "texts"), RUNS)
def test_runs(sections: dict[str, Any], texts: list[str]) -> None:
    assert said(run({"a": TEXT}, **sections)) == texts


def test_shots_need_classes() -> None:
    assert said(run({"a": TEXT, "b": TAGS}, data={"shots": 4})) == [
        "data.shots: task b (type: tagging) has no classes, so no rows can be drawn for each class "
        "-> type data.max_train_rows=N, or leave the task out"
    ]


def test_each_task_has_its_source() -> None:
    files = {"files": {"train": "a.csv", "validation": "b.csv"}}
    own = {**TEXT, "source": files}
    local = {**TEXT, "source": {"path": "p", "kind": "local"}}
    for source in ("auto", "local", "hub", "sample"):
        assert said(run({"own": own}, data={"source": source})) == []
        assert (
            said(run({"own": own, "a": TEXT, "b": local}, data={"source": source, "root": "x"}))
            == []
        )
    assert said(run({"own": own, "a": TEXT}, data={"source": "sample"})) == []
    assert said(run({"a": TEXT, "b": local}, data={"source": "sample"})) == [
        "data.root: must be given for b -> give the folder that holds <task path>/<split>.parquet, "
        "csv, ..."
    ]
    assert said(run({"own": {**own, "source": files | {"kind": "hub"}}})) == [
        "tasks.own.source.kind: the value has no effect beside source.files, which the rows come "
        "from: hub -> take one out"
    ]
    assert said(run({"a": {**TEXT, "source": {"path": "p"}}}, data={"source": "hub"})) == [
        "tasks.a.source.hub: must be given with data.source=hub -> the data set's name on the hub, "
        "or another source"
    ]
    assert said(run({"a": {**TEXT, "source": {"hub": "h", "kind": "sample"}}})) == [
        "tasks.a.source.path: must be given with tasks.a.source.kind=sample -> the folder below "
        "data.root, or another source"
    ]


def test_data_keys_without_effect_are_refused() -> None:
    own = {**TEXT, "source": {"files": {"train": "a.csv", "validation": "b.csv"}}}
    assert said(run({"a": TEXT}, data={"source": "sample", "root": "x"})) == [
        "data.root: the value has no effect: rows come from data.source=sample -> take it out, or "
        "type data.source=local"
    ]
    assert said(run({"own": own}, data={"root": "x", "sample_seed": 1})) == [
        "data.root: the value has no effect: every task names files of its own -> take it out, or "
        "type data.source=local",
        "data.sample_seed: the value has no effect: no task takes rows from the sample world -> "
        "take it out",
    ]


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("t,label\na,x\n")
    os.mkfifo(tmp_path / "pipe.csv")
    files = {
        "train": "trian.csv",
        "validation": "train.csv",
        "test": "nosuch/test.csv",
        "more": "train.xls",
        "pipe": "pipe.csv",
    }
    files |= {
        "one": "tr*.csv",
        "several": "*.csv",
        "none": "x/*.csv",
        "far": "https://example.org/train.csv",
    }
    config = validate(
        run({"a": {**TEXT, "source": {"files": files}}, "b": TEXT}, data={"root": "data"})
    )
    assert [str(problem).replace("\n    -> ", " -> ") for problem in missing_files(config)] == [
        "data.root: there is no folder 'data' -> '.' has nothing of a similar name; relative "
        f"paths start from {tmp_path}",
        "tasks.a.source.files.train: there is no file 'trian.csv' -> did you mean 'train.csv'?",
        "tasks.a.source.files.test: there is no file 'nosuch/test.csv' -> "
        f"there is no folder 'nosuch' either; relative paths start from {tmp_path}",
        "tasks.a.source.files.more: 'train.xls' is in no known format -> its name must end in "
        ".parquet, .csv, .tsv, .jsonl, .json, .conll, .conllu or .txt; text files also in .gz, "
        ".bz2, .xz or .zst after it",
        "tasks.a.source.files.pipe: 'pipe.csv' is not a regular file -> write its content to a "
        "file, which can be read more than once",
        "tasks.a.source.files.several: '*.csv' matches 'pipe.csv', which is no file of rows -> the "
        "names of files of rows end in .parquet, .csv, .tsv, .jsonl, .json, .conll, .conllu or "
        ".txt; text files also in .gz, .bz2, .xz or .zst after it",
        "tasks.a.source.files.none: no file matches 'x/*.csv' -> '.' has nothing of a similar "
        f"name; relative paths start from {tmp_path}",
        "tasks.a.source.files.far: 'https://example.org/train.csv' is an address, and rows are "
        "read from files -> "
        "download it, and name the file here",
    ]


def test_an_address_is_no_model() -> None:
    (problem,) = missing_model(
        validate(
            run(
                {"a": TEXT},
                model={"kind": "pretrained", "name": "https://huggingface.co/bert-base-uncased"},
            )
        )
    )
    assert problem.what == "an address is not the name of a model" and problem.fix.startswith(
        "give the name alone"
    )


# ------------------------------------------------------------------------------------------------
# methods


PAIR = {"a": TEXT, "b": TEXT}
METHODS: list[tuple[dict[str, Any], list[str]]] = [
    (run({"a": TEXT}, weighting={"name": "pcgrad"}),
     ["weighting: weighting=pcgrad compares tasks, but the run trains only one -> type "
      "weighting=static, or train several tasks"]),
    (run(PAIR, weighting={"name": "famo"}, sampling={"name": "uniform"}),
     ["sampling: weighting=famo compares the tasks of a step, and sampling=uniform puts one task "
      "into each -> type sampling=all"]),
    (run(PAIR, weighting={"name": "mgda"}, sharing={"name": "none"}),
     ["sharing: weighting=mgda compares the gradients of shared parameters, and sharing=none has "
      "none"
      " -> type sharing=hard, or weighting=static"]),
    (run(PAIR, weighting={"name": "mgda"}, sharing={"name": "soft"}),
     ["sharing: weighting=mgda compares the gradients of shared parameters, and sharing=soft has "
      "none"
      " -> give sharing.layers with some of the layers, or type sharing=hard, or "
      "weighting=static"]),
    (run({"a": TEXT}, sampling={"name": "dynamic"}),
     ["sampling: sampling=dynamic learns which task to draw, and the run trains only one"
      " -> type sampling=proportional, or train several tasks"]),
    (run(PAIR, sampling={"name": "dynamic"}, sharing={"name": "progressive"}),
     ["sampling: sampling=dynamic learns which task to draw, and the run trains only one in each "
      "stage"
      " -> put several tasks into a stage (sharing.stages), or type sampling=proportional"]),
    (run({"a": {**TEXT, "weight": 2}, "b": TEXT}, weighting={"name": "nash"}),
     ["tasks.a.weight: the value has no effect: weighting=nash does not change when a task's loss "
      "is multiplied by a number"
      " -> leave it out, choose another weighting, or type 0, which leaves the task out of the "
      "balance"]),
    (run(PAIR, weighting={"name": "mgda", "last_layers": 1, "projection": 64}),
     ["weighting.projection: the projection cannot be given together with weighting.last_layers -> "
      "set one of them to null"]),
    (run(PAIR, weighting={"name": "annealed", "tasks": {"aa": {"start": 2.0}}}),
     ["weighting.tasks.aa: task 'aa' is not trained in the run -> did you mean 'a'? choices: a, "
      "b"]),
    (run(PAIR, sampling={"name": "proportional"}, logger={"probe": 5}),
     ["logger.probe: the probe compares the gradients that the tasks of a step leave in shared "
      "parameters, and this run has none to compare"
      " -> leave it out, or type sampling=all and a sharing other than none, with several tasks"]),
    (run({"a": TEXT}, logger={"affinity": 5}),
     ["logger.affinity: affinity is what a step on one task does to others through shared "
      "parameters, and this run has none"
      " -> leave it out, or share parameters between several tasks"]),
]  # fmt: skip


@pytest.mark.parametrize(("values", "problems"), METHODS)
def test_methods_that_do_not_fit_the_run_are_refused(
    values: dict[str, Any], problems: list[str]
) -> None:
    assert said(values) == problems


@pytest.mark.parametrize("name", list(weightings))
def test_every_weighting_fits_some_run(name: str) -> None:
    given = {"tasks": {"a": {"start": 2.0}}} if name == "annealed" else {}
    assert said(run(PAIR, weighting={"name": name, **given})) == []


def test_a_missing_solver_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mtlcli.config.crosscheck.methods.find_spec",
        lambda name: None if name == "cvxpy" else object(),
    )
    assert said(run(PAIR, weighting={"name": "cagrad"})) == [
        "weighting: weighting=cagrad needs cvxpy, which is not installed -> type pip install "
        "'mtlcli[cagrad]'"
    ]


def test_trackers_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtlcli.config.crosscheck.runs.find_spec", lambda name: None)
    assert said(run(PAIR, logger={"trackers": ["csv", "mlflow", "csv"], "project": "mine"})) == [
        "logger.trackers: csv is named twice -> name it once",
        "logger.trackers: mlflow is not installed -> type pip install 'mtlcli[mlflow]', or take "
        "mlflow out",
    ]
    assert said(run(PAIR, logger={"trackers": ["csv"], "project": "mine"})) == [
        "logger.project: the value has no effect: neither wandb nor mlflow tracks the run -> take "
        "it out, or add one of them to logger.trackers"
    ]


def progressive(tasks: dict[str, Any], **options: Any) -> dict[str, Any]:
    sections = {
        key: options.pop(key) for key in ("weighting", "runner", "logger") if key in options
    }
    return run(tasks, sharing={"name": "progressive", **options}, **sections)


BORROWED = {"a": TEXT, "b": {**TEXT, "head": "a"}, "c": TEXT}
ONLY_EVALUATED = {"a": TEXT, "b": TEXT, "x": {**TEXT, "head": "a", "splits": {"train": None}}}
STAGES: list[tuple[dict[str, Any], list[str]]] = [
    (progressive(BORROWED), []),
    (progressive(ONLY_EVALUATED, stages=[["b"], ["a"]], lengths=[5]), []),
    (progressive({"a": TEXT, "b": TEXT}, stages=[["a", "b"]], weighting={"name": "mgda"}), []),
    (progressive({"a": TEXT, "b": TEXT}, stages=[["a"], ["bb"], ["b", "a"]]),
     ["sharing.stages: task 'a' is listed twice -> name every task once",
      "sharing.stages: task 'bb' is not in the run -> did you mean 'b'? choices: a, b"]),
    (progressive({"a": TEXT, "b": TEXT}, stages=[["a"]]),
     ["sharing.stages: task 'b' is in no stage -> add it to a stage, or take it out of the run"]),
    (progressive(ONLY_EVALUATED, stages=[["a", "x"], ["b"]]),
     ["sharing.stages: task 'x' has no train split -> take it out: it is evaluated with the head "
      "it uses"]),
    (progressive(BORROWED, stages=[["a"], ["b", "c"]]),
     ["sharing.stages: task 'b' uses the head of 'a', which is in another stage -> put both into "
      "one stage"]),
    (progressive({"a": TEXT, "b": {**TEXT, "splits": {"train": None}}}),
     ["tasks.b: no stage trains the head of task 'b' -> take it out of the run, or name another "
      "head"]),
    (progressive(BORROWED, lengths=[5, 5]),
     ["sharing.lengths: 2 stages need 1 length, found 2"
      " -> give the steps of every stage but the last, which goes on to the end of the run"]),
    (progressive(BORROWED, lengths=[5], runner={"steps": 5}),
     ["sharing.lengths: the stages before the last take 5 of 5 steps: the last one has none -> "
      "lower them, or raise runner.steps"]),
    (progressive(BORROWED, weighting={"name": "famo"}, stages=[["a", "b"], ["c"]]),
     ["sharing.stages: weighting=famo compares tasks, and 'c' is alone in its stage"
      " -> put several tasks into every stage, or type weighting=static"]),
    (progressive({"a": TEXT, "b": TEXT}, runner={"patience": 2}),
     ["runner.patience: patience may end the run before its last stage"
      " -> give sharing.patience, which ends a stage, and with the last one the run"]),
    (progressive({"a": TEXT, "b": TEXT}, stages=[["a", "b"]], logger={"affinity": 2}),
     ["logger.affinity: affinity is measured between tasks trained together, and stages train them "
      "one after another -> leave it out"]),
]  # fmt: skip


@pytest.mark.parametrize(("values", "expected"), STAGES)
def test_stages(values: dict[str, Any], expected: list[str]) -> None:
    assert said(values) == expected


@pytest.mark.parametrize("sharing", ["cross_stitch", "sluice"])
def test_copies_that_run_at_once_cannot_be_computed_again(sharing: str) -> None:
    values = run(
        {"a": TEXT, "b": TEXT}, sharing={"name": sharing}, model={"gradient_checkpointing": True}
    )
    assert said(values) == [
        f"model.gradient_checkpointing: sharing={sharing} runs all copies of a layer at once, "
        "which cannot be computed again "
        "-> leave it out, lower runner.batch_size, or raise runner.accumulation"
    ]
    assert said(values | {"sharing": {"name": "hard"}}) == []


SHARDS: list[tuple[dict[str, Any], str]] = [
    ({"weighting": {"name": "pcgrad"}}, "runner.engine: fsdp adds the gradients of all tasks up"),
    ({"weighting": {"name": "stch"}}, "weighting=stch needs the step's losses or gradients"),
    ({"weighting": {"name": "gradnorm"}}, "weighting=gradnorm needs"),
    ({"weighting": {"name": "scale_free"}}, "weighting=scale_free needs"),
    ({"sharing": {"name": "sluice"}}, "sharing=sluice runs all copies of a layer at once"),
    ({"sharing": {"name": "mmoe", "gate": "dselect_k"}}, "sharing.gate=dselect_k"),
    ({"sharing": {"name": "soft", "distance": "pretrained"}}, "sharing.distance=pretrained"),
    ({"sharing": {"name": "hierarchical", "mix": True}}, "sharing.mix"),
    ({"optim": {"name": "muon"}}, "optim=muon needs whole ones"),
    ({"optim": {"name": "adafactor"}}, "optim=adafactor needs whole ones"),
    ({"logger": {"probe": 10}}, "logger.probe: fsdp does not keep the gradients of the tasks"),
    ({"logger": {"affinity": 10}}, "logger.affinity: fsdp does not keep the gradients"),
    ({"runner": {"packing": "on"}}, "runner.packing: fsdp takes one task after the other"),
    ({"runner": {"max_tokens": "auto"}}, "runner.max_tokens: fsdp has no measurement"),
]


@pytest.mark.parametrize(("values", "expected"), SHARDS)
def test_what_shards_cannot_do_is_refused(values: dict[str, Any], expected: str) -> None:
    runner = {"engine": "fsdp", "devices": 2} | values.get("runner", {})
    (problem,) = said(run({"a": TEXT, "b": TEXT}, **values | {"runner": runner}))
    assert expected in problem and ("engine=ddp" in problem or "max_tokens" in problem)
    assert (
        said(run({"a": TEXT, "b": TEXT}, **values | {"runner": runner | {"engine": "ddp"}})) == []
    )


def test_weightings_that_know_their_weights_work_on_shards() -> None:
    known = {name for name in weightings if weightings.implementation(name).needs_one_gradient()}
    assert known == {"static", "annealed", "dwa", "imtl_l", "random", "uncertainty"}
