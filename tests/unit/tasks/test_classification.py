"""Labels as ids and as names, row checks, loss, predictions and the majority score."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtlcli.config.section import replaced
from mtlcli.config.task import Source, TextColumns
from mtlcli.data.batches import InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features, Split
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.errors import RunError
from mtlcli.evaluation.evaluate import score
from mtlcli.metrics import compute
from mtlcli.tasks.base import build_tasks
from mtlcli.tasks.checks import ALIKE
from mtlcli.tasks.classification import ClassificationTask
from mtlcli.tasks.classification.task import Classification


def task(
    labels: list[str] | None = None, pair: str | None = None, head: str | None = None
) -> Classification:
    config = ClassificationTask(
        source=Source(path="x"),
        columns=TextColumns(text="text", text_pair=pair),
        labels=labels,
        max_length=16,
        head=head,
    )
    return Classification("toy", config)


def table(
    labels: Any, texts: list[str | None] | None = None, kind: pa.DataType | None = None
) -> Table:
    labels = pa.array(labels, kind)
    return Table(
        pa.table({"text": texts or [f"the cat {i}" for i in range(len(labels))], "label": labels}),
        "toy.csv",
        "train",
    )


def only(problems: list[Any]) -> Any:
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    ("labels", "values", "ids"),
    [
        (["no", "yes"], [1, 0, 1], [1, 0, 1]),
        (["no", "yes"], ["yes", "no", "yes"], [1, 0, 1]),
        (["no", "yes"], [True, False, True], [1, 0, 1]),
        (["1", "2", "3"], [1, 3, 2], [0, 2, 1]),  # whole numbers as names
        # a whole number that is a class name is that name
        (["1", "2", "3+"], [2, 1, 2], [1, 0, 1]),
        (["10", "9", "n/a"], ["9", "10", "n/a"], [1, 0, 2]),
        (["no", "yes"], ["1", "0", "1"], [1, 0, 1]),  # ids as text, as in every csv file
        (["-1", "1"], [1, -1, 1], [1, 0, 1]),
        (["+1", "-1"], ["-1", "+1"], [1, 0]),
        (["0.0", "1.0"], [1.0, 0.0], [1, 0]),
        (["1", "10"], ["10", "1"], [1, 0]),
    ],
)
def test_labels_are_ids_or_names(labels: list[str], values: list[Any], ids: list[int]) -> None:
    toy = task(labels)
    assert toy.check(table(values), labelled=True) == []
    assert toy.references(table(values)) == ids


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([10, 9, 1], ["1", "9", "10"]),
        ([True, False], ["false", "true"]),
        ([1, 0, -1, None], ["0", "1"]),
        (["x", "", None, "y"], ["x", "y"]),
        (["10", "9", "1", "-1"], ["1", "9", "10"]),
        (["10", "9", "n/a"], ["10", "9", "n/a"]),
        (["+1", "-1"], ["-1", "+1"]),
        (["1.9", "1.10"], ["1.10", "1.9"]),
    ],
)
def test_null_labels_are_the_distinct_values_of_train(values: list[Any], labels: list[str]) -> None:
    toy = task()
    toy.prepare(table(values))
    assert toy.labels == labels
    assert toy.config.labels == labels, "the saved config is complete"
    numbers = {label: number for number, label in enumerate(labels)}
    good = [
        value
        for value in values
        if value not in (None, "", -1) and (value != "-1" or "-1" in labels)
    ]
    expected = [numbers[str(value).lower()] for value in good]
    assert toy.references(table(good)) == expected


@pytest.mark.parametrize(
    "labels",
    [["true", "false"], ["false", "true"], ["Yes", "No", "maybe"], ["1", "0"], ["FALSE", "TRUE"]],
)
def test_true_and_false_are_the_classes_of_that_meaning(labels: list[str]) -> None:
    toy = task(labels)
    truths = {name.casefold(): number for number, name in enumerate(labels)}
    true, false = (
        next(truths[name] for name in names if name in truths)
        for names in (("true", "yes", "1"), ("false", "no", "0"))
    )
    rows = table([True, None, False])
    assert toy.references(rows) is None
    assert toy.targets(rows).tolist() == [true, -100, false]


def test_true_and_false_without_such_classes_are_refused() -> None:
    problem = only(task(["spam", "ham"]).check(table([True, False]), labelled=True))
    assert (
        problem.what
        == "column 'label' holds true and false, and the classes do not say which of them is true "
        "(and 1 more: row 2)"
    )
    assert problem.fix.startswith(
        "write the names of the classes into the column, or name true and false in tasks.toy.labels"
    )


@pytest.mark.parametrize("labels", [["true", "false"], ["yes", "no"]])
def test_0_and_1_are_not_ids_of_swapped_true_and_false_unless_label_ids_is_set(
    labels: list[str],
) -> None:
    toy = task(labels)
    for values in ([0, 1], ["0", "1"]):
        problem = only(toy.check(table(values), labelled=True))
        assert "is not one of the classes" in problem.what and problem.fix.endswith(
            f"if 0 is {labels[0]}, set tasks.toy.label_ids=true"
        )
    toy.config = replaced(toy.config, {"label_ids": True})
    assert toy.references(table([0, 1, 1])) == [0, 1, 1]
    assert toy.references(table([True, False])) == [0, 1], "true and false are no ids"
    assert task(labels[::-1]).references(table([0, 1])) == [0, 1]


def named(names: Any, values: list[Any], split: str = "train") -> Table:
    """A table whose file has names for the ids in its label column, as the datasets library writes
    it."""
    rows = table(values).rows
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": names, "_type": "ClassLabel"},
    }
    return Table(
        rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}),
        f"{split}.parquet",
        split,
    )


def test_the_files_own_names_of_ids_are_learned_in_their_order() -> None:
    toy = task()
    train, validation = (
        named(["pos", "neg", "none"], [0, 1, 1, -1]),
        named(["neg", "pos", "none"], [0, 1], "validation"),
    )
    toy.prepare(train, [validation])
    assert toy.labels == ["pos", "neg", "none"]
    assert toy.targets(train).tolist() == [0, 1, 1, -100]
    assert toy.references(validation) == [1, 0], "each file has its own order"
    assert toy.references(table([0, 2])) == [0, 2] and toy.references(table(["none"])) == [2]
    assert "no row of split 'train' has the label none" in only(toy.doubts(train)).what


def test_configured_labels_and_the_files_own_names() -> None:
    toy = task(["neg", "pos"])
    assert (
        toy.references(named(["pos", "neg"], [0, 1])) == [1, 0]
        and toy.doubts(named(["pos", "neg"], [0, 1])) == []
    )
    assert toy.references(named(["0", "1"], [0, 1])) == [0, 1]
    renamed = task(["bad", "good"])
    problem = only(renamed.check(named(["neg", "pos"], [0, 1]), labelled=True))
    assert problem.what.startswith(
        "label 0, which the file calls 'neg', is not one of the classes; others: 1"
    )
    assert problem.fix.endswith("if they mean the same in this order, set tasks.toy.label_ids=true")
    renamed.config = replaced(renamed.config, {"label_ids": True})
    assert renamed.references(named(["neg", "pos"], [0, 1])) == [0, 1]
    problem = only(
        task(["neg", "pos"]).check(named(["neg", "neutral", "pos"], [0, 1, 2]), labelled=True)
    )
    assert (problem.where, problem.what) == (
        "train.parquet, row 2",
        "label 1, which the file calls 'neutral', is not one of the classes",
    )
    assert problem.fix.startswith("the file calls its classes neg, neutral, pos; allowed: ")
    assert (
        "label 7, which the file calls by no name"
        in only(task(["neg", "pos"]).check(named(["neg", "pos"], [0, 7]), labelled=True)).what
    )
    numbers = task(["3", "2", "1"])
    numbers.config = replaced(numbers.config, {"label_ids": True})
    assert numbers.references(named(["1", "2", "3"], [0, 1, 2])) == [2, 1, 0], "a name is no id"
    for odd in (None, ["neg", "neg"], ["neg", ""], ["neg", 3], [], "neg"):
        assert task(["neg", "pos"]).references(named(odd, [0, 1])) == [0, 1], (
            "such metadata name no classes"
        )


NAN = float("nan")


@pytest.mark.parametrize(
    "values",
    [
        [NAN, NAN],
        [-1.0, -1.0],
        [-1.0, NAN],
        ["-1.0", "-1.0"],
        ["nan", "nan"],
        ["NaN", ""],
        pa.nulls(2, pa.bool_()),
    ],
)
def test_an_unlabelled_split_may_be_written_in_any_type(values: Any) -> None:
    toy = task(["no", "yes"])
    assert toy.check(table(values), labelled=False) == [] and toy.references(table(values)) is None
    assert "no label in any of the 2 rows" in only(toy.check(table(values), labelled=True)).what


def test_nan_is_no_class_unless_the_task_names_it() -> None:
    toy = task()
    toy.prepare(rows := table(["soup", "nan", "rice"]))
    assert toy.labels == ["rice", "soup"]
    assert only(toy.check(rows, labelled=True)).fix == (
        "nan says that a row has no label; tasks.toy.unlabelled=skip leaves such rows out; if it "
        "is a class, "
        'name it in tasks.toy.labels: ["nan", "rice", "soup"]'
    )
    assert task(["nan", "soup", "rice"]).references(rows) == [1, 0, 2]


def test_a_swapped_text_and_label_are_one_problem() -> None:
    texts = [f"film {number}" for number in range(30)]
    for labels in (None, ["bad", "good"]):
        for classes in (["bad", "good"] * 15, [0, 1] * 15):
            tables = [
                Table(pa.table({"text": classes, "label": texts}), f"{split}.csv", split)
                for split in ("train", "validation")
            ]
            toy = task(labels)
            toy.prepare(tables[0], tables[1:])
            problem = only(
                [problem for each in tables for problem in toy.check(each, labelled=True)]
            )
            assert problem.where == "train.csv, row 1"
            assert (
                problem.what
                == f"columns 'text' and 'label' look swapped: the text is {classes[0]!r}, the "
                "label 'film 0'"
            )
            assert (
                problem.fix == "set tasks.toy.columns.text=label and tasks.toy.columns.label=text"
            )


def test_a_text_of_several_columns_is_joined() -> None:
    """The features are those of a table in which the columns are one already."""
    parts = {"title": ["the cat", "a dog"], "body": ["sat here", "ran"], "word": ["cat", "dog"]}
    whole = {"title": ["the cat sat here", "a dog ran"], "word": ["cat", "dog"]}
    encoder = TextEncoder(build_tokenizer([*whole["title"]], 60), uses_segments=True)
    found = []
    for columns, text in ((parts, ["title", "body"]), (whole, "title")):
        toy = task(["no", "yes"])
        given = TextColumns(text=text, text_pair="word")
        toy.config = replaced(toy.config, {"columns": given})
        rows = Table(pa.table({**columns, "label": [0, 1]}), "toy.csv", "train")
        assert toy.check(rows, labelled=True) == []
        found.append(toy.encode(rows, encoder))
    assert found[0].ids.tolist() == found[1].ids.tolist()
    assert found[0].offsets.tolist() == found[1].offsets.tolist()
    toy.config = replaced(toy.config, {"columns": TextColumns(text=["title", "body"])})
    assert toy.required_columns() == ["title", "body", "label"]
    rows = Table(
        pa.table({**parts, "body": ["sat", " "], "label": [0, 1]}), "toy.csv", "validation"
    )
    assert only(toy.check(rows, labelled=True)).what == "column 'body' is empty or missing"


def test_a_swapped_second_text_and_label_are_named() -> None:
    texts = [f"film {number}" for number in range(30)]
    rows = Table(
        pa.table({"text": texts, "second": ["bad", "good"] * 15, "label": texts}),
        "toy.csv",
        "train",
    )
    for labels in (None, ["bad", "good"]):
        toy = task(labels, pair="second")
        toy.prepare(rows)
        problem = only(toy.check(rows, labelled=True))
        assert (
            problem.fix
            == "set tasks.toy.columns.text_pair=label and tasks.toy.columns.label=second"
        )


def test_a_wrong_label_column_is_one_short_problem() -> None:
    def rows(split: str, begin: int) -> Table:
        names = [f"id{number}" for number in range(begin, begin + 30)]
        return Table(
            pa.table(
                {
                    "text": [f"film {name}" for name in names],
                    "stars": ["bad", "good"] * 15,
                    "label": names,
                }
            ),
            split,
            split,
        )

    toy = task()
    toy.prepare(rows("train", 0), [rows("validation", 100)])
    assert toy.check(rows("train", 0), labelled=True) == []
    problem = only(toy.check(rows("validation", 100), labelled=True))
    assert problem.what.startswith(
        "label 'id100' is not one of the classes, and column 'label' has 30 classes in 30 rows of "
        "split 'train'"
    )
    assert problem.fix == (
        "is it the label column? name the column with the labels in tasks.toy.columns.label; other "
        "columns: stars"
    )


def test_a_label_that_only_looks_like_a_class() -> None:
    problem = only(task(["bad", "good"]).check(table(["bad", "Good "]), labelled=True))
    assert problem.fix.startswith(f"write 'good', which differs in {ALIKE}; allowed: ")
    problem = only(task(["caf\u00e9", "tea"]).check(table(["cafe\u0301", "tea"]), labelled=True))
    assert problem.fix.startswith("write 'caf\\xe9', which")


@pytest.mark.parametrize(
    ("labels", "values", "labelled"),
    [
        (None, ["x", "", None, "nan", "-1", "y"], [1, 0, 0, 0, 0, 1]),
        (None, ["x", " ", "\u00a0\t", "y"], [1, 0, 0, 1]),
        (None, [0, 1, -1, None], [1, 1, 0, 0]),
        (None, ["+1", "-1", None], [1, 1, 0]),
        (["-1", "1"], [-1, 1, None], [1, 1, 0]),
        (["nan", "x"], ["nan", "x", ""], [1, 1, 0]),
        # what is no label of the task is refused, not left out
        (["a", "b"], [0.5, NAN, -1.0, 1.0], [1, 0, 0, 1]),
        (["a", "b"], ["a", "wrong", None], [1, 1, 0]),
        (None, [True, None, False], [1, 0, 1]),
    ],
)
def test_rows_with_a_label_are_found(
    labels: list[str] | None, values: list[Any], labelled: list[int]
) -> None:
    assert task(labels).labelled(table(values)).tolist() == [bool(each) for each in labelled]


def test_a_label_of_blanks_is_not_a_class() -> None:
    toy, rows = task(), table(["x", " ", "y"])
    toy.prepare(rows)
    assert toy.labels == ["x", "y"]
    assert only(toy.check(rows, labelled=True)).where == "toy.csv, row 2"


def test_rows_with_1_for_no_label_beside_the_files_own_names() -> None:
    toy, snli = task(), named(["entailment", "neutral", "contradiction"], [0, -1, 2])
    assert toy.labelled(snli).tolist() == [True, False, True]
    kept = snli.select(np.array([0, 2]))
    toy.prepare(kept)
    assert toy.references(kept) == [0, 2] and kept.where(1) == "train.parquet, row 3"


def test_weights_of_classes(encoder: TextEncoder) -> None:
    rows = table(["a", "b", "a", "a", None, "c"])
    for given, weights in (
        ([1, 2.5, 3], [1, 2.5, 3]),
        ({"c": 4}, [1, 1, 4]),
        # as sklearn.utils.class_weight.compute_class_weight has it
        ("balanced", [5 / 9, 5 / 3, 5 / 3]),
        (None, None),
    ):
        toy = task()
        toy.config = replaced(toy.config, {"class_weights": given})
        toy.prepare(rows)
        assert toy._weights == (weights if weights is None else pytest.approx(weights))
        features = toy.encode(rows, encoder)
        w = weights or [1, 1, 1]
        assert toy.items(features, np.arange(6)) == pytest.approx(3 * w[0] + w[1] + w[2])
        assert toy.items(features, np.array([1, 4])) == pytest.approx(w[1])
    toy = task(["a", "b", "c", "never"])
    toy.config = replaced(toy.config, {"class_weights": "balanced"})
    toy.prepare(table(["a", "b", "a", "a", "c"]))
    assert toy._weights == pytest.approx([5 / 9, 5 / 3, 5 / 3, 1])


def test_weights_that_do_not_fit_learned_classes_are_refused() -> None:
    for given, what in (
        ([1, 2], "there are 2 numbers for 3 classes"),
        ({"d": 2}, "there is no class 'd'"),
    ):
        toy = task()
        toy.config = replaced(toy.config, {"class_weights": given})
        rows = table(["a", "b", "c"])
        toy.prepare(rows)
        problem = only(toy.check(rows, labelled=True))
        assert (problem.where, problem.what) == ("tasks.toy.class_weights", what)


def test_configured_labels_are_kept_and_labels_may_come_from_the_head_that_is_used() -> None:
    toy = task(["yes", "no"])
    toy.prepare(table(["a", "b"]))
    assert toy.labels == ["yes", "no"]
    tasks = build_tasks({"borrower": task(head="owner").config, "owner": task().config})
    for each in tasks.values():
        each.prepare(table(["n", "e", "c"]))
    assert tasks["borrower"].labels == ["c", "e", "n"]  # type: ignore[attr-defined]
    assert tasks["borrower"].config.labels is None


def test_a_label_outside_the_set_is_named_with_row_value_and_allowed_set() -> None:
    problem = only(task(["no", "yes"]).check(table([0, 1, 7, 1, 8, 7]), labelled=True))
    assert problem.where == "toy.csv, row 3"
    assert problem.what == "label 7 is not one of the classes; others: 8 (and 2 more: rows 5, 6)"
    assert problem.fix == "allowed: 0 = no, 1 = yes (tasks.toy.labels)"
    problem = only(task(["no", "yes"]).check(table(["no", "maybe"]), labelled=True))
    assert (problem.where, problem.what) == (
        "toy.csv, row 2",
        "label 'maybe' is not one of the classes",
    )
    problem = only(task(["1", "2"]).check(table([1, 0]), labelled=True))
    assert problem.fix == "allowed: 1, 2 (tasks.toy.labels)"
    many = only(task([f"class {number}" for number in range(50)]).check(table([50]), labelled=True))
    assert many.fix.endswith("19 = class 19, ... (50 classes) (tasks.toy.labels)")
    assert "label 'yes' is" in only(task(["0", "1"]).check(table(["yes"]), labelled=True)).what
    named = task(["no", "yes"])
    rows = table(["good", "bad", "good"])
    named.prepare(rows)
    advice = "; if the labels in the file are the classes, type 'tasks.toy.labels=[bad, good]'"
    assert (
        only(named.check(rows, labelled=True)).fix
        == f"allowed: 0 = no, 1 = yes (tasks.toy.labels){advice}"
    )


def test_labels_mean_the_same_in_all_splits() -> None:
    """Whatever the values of one split look like: whether they are names or ids is decided over all
    of them."""
    toy = task()
    toy.prepare(table(["1", "2", "3+"]), [table(["1", "2"])])
    assert toy.references(table(["2", "1"])) == [1, 0]
    learned = task()
    learned.prepare(table(["no", "yes"]), [table([0, 1])])
    assert (
        "label 0 is not one of the classes"
        in only(learned.check(table([0, 1]), labelled=True)).what
    )
    reloaded = Classification("toy", learned.config)  # as an evaluation of the run does
    reloaded.prepare(None, [table([0, 1])])
    assert "label 0 is not" in only(reloaded.check(table([0, 1]), labelled=True)).what
    mixed = task(["no", "yes"])
    mixed.prepare(table(["no", "yes"]), [table(["1", "no"])])
    problem = only(mixed.check(table(["1", "no"]), labelled=True))
    assert (problem.where, problem.what) == (
        "toy.csv, row 1",
        "label '1' is not one of the classes",
    )
    assert (
        problem.fix
        == "toy.csv, row 1 holds the name no, so that numbers are no ids here; allowed: no, yes "
        "(tasks.toy.labels)"
    )
    stars = task(["1", "2"])
    stars.config = replaced(stars.config, {"label_ids": True})
    assert stars.references(table([0, 1])) == [0, 1]


def test_labels_are_shown_as_they_stand_in_the_file() -> None:
    minus = task()
    minus.prepare(table(["1", "-1", "1"]))
    problem = only(minus.check(table(["1", "-1", "1"]), labelled=True))
    assert problem.what == "column 'label' holds fewer than two classes: 1"
    assert problem.fix == (
        "-1 says that a row has no label; tasks.toy.unlabelled=skip leaves such rows out; if it is "
        "a class, "
        'name it in tasks.toy.labels: ["-1", "1"]'
    )
    for values in (["1.0", "0.0", None], [1.0, 0.0, None]):
        floats = task()
        floats.prepare(table(values))
        shape, missing = floats.check(table(values), labelled=True)
        assert shape.where == "toy.csv, row 1" and missing.where == "toy.csv, row 3"
        assert "1.0" in shape.what and "decimal point" in shape.what and "no label" in missing.what
    assert floats.check(table([None, float("nan"), -1.0], kind=pa.float64()), labelled=False) == []
    problem = only(task(["no", "yes"]).check(table(["1.0", "no"]), labelled=True))
    assert (
        problem.fix
        == "write 1, without a decimal point; allowed: 0 = no, 1 = yes (tasks.toy.labels)"
    )


def test_missing_labels() -> None:
    toy = task(["no", "yes"])
    for values in ([-1, -1], [None, None], pa.nulls(2)):
        assert "no label" in only(toy.check(table(values), labelled=True)).what
        assert toy.check(table(values), labelled=False) == []
        assert toy.references(table(values)) is None
    mixed = only(toy.check(table([0, -1, None]), labelled=False))
    assert (mixed.where, "other rows" in mixed.what) == ("toy.csv, row 2", True)
    without = Table(pa.table({"text": ["a"]}), "toy.csv", "test")
    assert toy.check(without, labelled=False) == [] and toy.references(without) is None
    assert toy.required_columns() == ["text", "label"] and toy.required_columns(labelled=False) == [
        "text"
    ]


def test_label_columns_of_the_wrong_type_and_label_sets_that_are_too_small() -> None:
    problem = only(task(["no", "yes"]).check(table([0.5, 1.0]), labelled=True))
    assert (
        "column 'label' holds numbers with a decimal point (0.5), where class names (text) or ids "
        "(whole" in problem.what
    )
    unknown = task()
    assert unknown.check(table([0, 1]), labelled=True) == [], (
        "the train split could not be read, and that has been said"
    )
    unknown.config = replaced(unknown.config, {"splits.train": None})
    assert "not known" in only(unknown.check(table([0, 1]), labelled=True)).what
    unknown.config = replaced(unknown.config, {"splits.train": "train"})
    unknown.prepare(table([0, 0]))
    assert "fewer than two classes: 0" in only(unknown.check(table([0, 0]), labelled=True)).what


def test_text_that_is_empty_missing_or_not_text() -> None:
    toy = task(["no", "yes"])
    problem = only(toy.check(table([0, 1, 0, 1], ["the cat", " \t", None, ""]), labelled=True))
    assert (problem.what, problem.where) == (
        "column 'text' is empty or missing (and 2 more: rows 3, 4)",
        "toy.csv, row 2",
    )
    numbers = Table(pa.table({"text": [1, 2], "label": [0, 1]}), "toy.csv", "train", lines=[2, 3])
    problem = only(toy.check(numbers, labelled=True))
    assert (problem.what, problem.where) == (
        "column 'text' holds whole numbers (1), where text is needed",
        "toy.csv, line 2",
    )
    pairs = Table(pa.table({"text": ["a"], "second": [""], "label": [3]}), "toy.csv", "train")
    assert [
        problem.what[:20]
        for problem in task(["no", "yes"], pair="second").check(pairs, labelled=True)
    ] == [
        "column 'second' is e",
        "label 3 is not one o",
    ]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_layout_of_text_columns_is_read(kind: pa.DataType, encoder: TextEncoder) -> None:
    rows = Table(
        pa.table(
            {
                "text": pa.array(["the cat", "a dog"]).cast(kind),
                "label": pa.array(["b", "a"]).cast(kind),
            }
        ),
        "x",
        "train",
    )
    toy = task()
    toy.prepare(rows)
    assert toy.check(rows, labelled=True) == []
    assert toy.encode(rows, encoder).columns["label"].tolist() == [1, 0]
    bad = Table(rows.rows.set_column(0, "text", pa.array(["the cat", ""]).cast(kind)), "x", "train")
    assert only(toy.check(bad, labelled=True)).where == "x, row 2"


def test_encoding_pairs_and_labels(encoder: TextEncoder) -> None:
    rows = Table(
        pa.table({"text": ["the cat", "a dog"], "second": ["she", "two birds"], "label": [1, -1]}),
        "x",
        "test",
    )
    toy = task(["no", "yes"], pair="second")
    features = toy.encode(rows, encoder)
    assert (
        features.columns["label"].tolist() == [1, -100]
        and features.columns["label"].dtype == np.int64
    )
    assert toy.texts(rows) == ["the cat", "a dog", "she", "two birds"]
    assert np.array_equal(
        features.ids, encoder.encode(["the cat", "a dog"], ["she", "two birds"], 16).ids
    )
    assert toy.items(features, np.array([0, 1])) == 1


def test_loss_is_the_summed_cross_entropy_of_labelled_rows(encoder: TextEncoder) -> None:
    toy = task(["a", "b", "c"])
    features = toy.encode(table([2, 0, None]), encoder)
    batch = collate(features, np.arange(3), input_format=InputFormat(0, True), denominator=2)
    logits = torch.tensor(
        [[0.5, -1.0, 2.0], [3.0, 0.0, 0.0], [1.0, 2.0, 3.0]],
        dtype=torch.bfloat16,
        requires_grad=True,
    )
    loss = toy.loss({"logits": logits}, batch)
    expected = (
        math.log(math.exp(0.5) + math.exp(-1) + math.exp(2)) - 2 + math.log(math.exp(3) + 2) - 3
    )
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert logits.grad is not None and logits.grad[2].abs().sum() == 0


def test_predictions_are_in_row_order_and_metrics_take_their_ids(encoder: TextEncoder) -> None:
    toy = task(["a", "b", "c"])
    rows = table([2, 0, 1])
    features = toy.encode(rows, encoder)
    features.columns["row"] = np.array([2, 0, 1])
    predictions = toy.decode(
        {"logits": np.log(np.array([[0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1]]))},
        features,
        rows,
    )
    assert [prediction["label"] for prediction in predictions] == ["c", "a", "b"]
    assert predictions[0]["probabilities"] == pytest.approx({"a": 0.1, "b": 0.3, "c": 0.6})
    assert compute(
        "accuracy", references=toy.references(rows), **toy.metric_inputs("accuracy", predictions)
    ) == {"accuracy": 1.0}
    assert toy.metric_inputs("f1", predictions) == {"predictions": [2, 0, 1], "classes": 3}
    with pytest.raises(RunError, match="task toy: .*not finite"):
        toy.decode({"logits": np.array([[0, np.nan, 0]] * 3)}, features, rows)


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"], ["a", "b", "c", "never"]])
@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews"])
def test_majority_is_the_best_constant_prediction(labels: list[str], metric: str) -> None:
    toy = task(labels)
    references = (
        np.random.default_rng(3)
        .choice(3, 50, p=[0.6, 0.4, 0.0] if len(labels) == 2 else [0.5, 0.3, 0.2])
        .tolist()
    )
    constants = [1] if metric == "f1" and len(labels) == 2 else set(references)
    scores = []
    for constant in constants:
        inputs = toy.metric_inputs(metric, [{"label": labels[constant]}] * 50)
        scores.append(compute(metric, references=references, **inputs)[metric])
    assert toy.majority(references, metric) == pytest.approx(max(scores))


def test_groups_count_where_all_of_their_rows_are_right() -> None:
    toy = task(["no", "yes"])
    toy.config = replaced(toy.config, {"group": ["p", "q"], "metrics": ["group_exact_match"]})
    columns = {
        "text": ["a"] * 7,
        "p": ["x", "x", "x", "y", "y", "x", "z"],
        "q": ["1", "1", "2", "1", "1", "1", "3"],
        "label": ["no", "no", "no", "yes", "no", "no", None],
    }
    rows = Table(pa.table(columns), "toy.csv", "validation")
    assert toy.required_columns() == ["text", "label", "p", "q"]
    assert toy.required_columns(labelled=False) == ["text"]
    # Two of three groups are right by answering no, and one of them, (x, 1), is in two places.
    features = Features(
        ids=np.zeros(7, np.uint16),
        offsets=np.arange(8),
        segments=np.ones(7, np.int32),
        columns={"row": np.arange(7)},
    )
    logits = np.array([[1.0, 0.0]] * 7)
    scores = score(toy, {"logits": logits}, Split(rows, features))
    assert scores.metrics == {"group_exact_match": pytest.approx(2 / 3)}
    assert scores.majority == pytest.approx(2 / 3)
    logits[5] = -logits[5]
    scores = score(toy, {"logits": logits}, Split(rows, features))
    assert scores.metrics == {"group_exact_match": pytest.approx(1 / 3)}
