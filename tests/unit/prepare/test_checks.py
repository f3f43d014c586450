"""What is found in the rows of all tasks before the first step."""

from __future__ import annotations

import pyarrow as pa

from mtlcli.config.task import Source, Splits, TextColumns
from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.prepare.checks import check_tables
from mtlcli.prepare.prepare import summary
from mtlcli.tasks.base import build_tasks
from mtlcli.tasks.checks import ALIKE
from mtlcli.tasks.classification import ClassificationTask
from mtlcli.tasks.regression import RegressionTask
from mtlcli.tasks.span import SpanTask

PAIR = TextColumns(text="one", text_pair="two")


def table(split: str, **columns: list) -> Table:
    return Table(pa.table(columns), f"{split}.csv", split)


def check(configs: dict, tables: dict) -> tuple[list[Problem], list[str]]:
    problems, doubts = check_tables(build_tasks(configs), tables)
    return problems, [f"warning: {problem}" for found in doubts.values() for problem in found]


def classification(**settings: object) -> ClassificationTask:
    return ClassificationTask(
        **(
            {"source": Source(files={}), "columns": TextColumns(text="text"), "labels": ["a", "b"]}
            | settings
        )
    )  # type: ignore[arg-type]


def test_sound_tables_have_no_problems_and_no_notices() -> None:
    tables = {
        "train": table("train", text=["x", "y"], label=[0, 1]),
        "validation": table("validation", text=["z"], label=[1]),
    }
    assert check({"mine": classification()}, {"mine": tables}) == ([], [])


def test_all_tasks_are_checked_at_once() -> None:
    configs = {
        "columns": classification(columns=TextColumns(text="sentence", label="labels")),
        "empty": classification(),
        "rows": classification(),
        "scores": RegressionTask(source=Source(files={}), columns=PAIR, range=[0, 5]),
    }
    good = table("validation", text=["z"], label=[1])
    tables = {
        "columns": {"train": table("train", sentences=["x"], label=[0])},
        "empty": {"train": table("train", text=[], label=[]), "validation": good},
        "rows": {
            "train": table("train", text=["x", "y", "z"], label=[0, 7, 1]),
            "validation": good,
        },
        "scores": {"train": table("train", one=["a", "b"], two=["c", "d"], label=[1.0, 9.0])},
    }
    problems, notices = check(configs, tables)
    text = "\n".join(map(str, problems))
    assert "train.csv: task columns: there is no column 'sentence'" in text
    assert "did you mean 'sentences'?" in text and "set tasks.columns.columns.text" in text
    assert "there is no column 'labels'" in text and "set tasks.columns.columns.label" in text
    assert "train.csv: task empty: split 'train' has no rows" in text
    assert "train.csv, row 2: task rows: label 7" in text
    assert "train.csv, row 2" in str(problems[-1]) and "9" in str(problems[-1])
    assert len(problems) == 5 and not notices


def test_labels_may_be_missing_from_a_test_split_only() -> None:
    config = classification(splits=Splits(test="test"))
    train = table("train", text=["x", "y"], label=[0, 1])
    assert (
        check({"mine": config}, {"mine": {"train": train, "test": table("test", text=["z"])}})[0]
        == []
    )
    unlabelled = table("test", text=["z"], label=[-1])
    assert check({"mine": config}, {"mine": {"train": train, "test": unlabelled}})[0] == []
    assert (
        len(check({"mine": config}, {"mine": {"train": train, "validation": unlabelled}})[0]) == 1
    )
    problems, _ = check(
        {"mine": config}, {"mine": {"train": train, "validation": table("validation", text=["z"])}}
    )
    assert [problem.what for problem in problems] == ["task mine: there is no column 'label'"]


def test_labels_are_learned_before_they_are_checked() -> None:
    configs = {"mine": classification(labels=None)}
    tables = {
        "train": table("train", text=["x", "y"], label=["no", "yes"]),
        "validation": table("validation", text=["z"], label=["maybe"]),
    }
    problems, _ = check(configs, {"mine": tables})
    assert (
        len(problems) == 1
        and "maybe" in problems[0].what
        and problems[0].where == "validation.csv, row 1"
    )


def doubts(labels: list, configured: list[str] | None = None) -> list[str]:
    texts = [f"text {number}" for number in range(len(labels))]
    validation = table("validation", text=["z"], label=labels[:1])
    problems, notices = check(
        {"mine": classification(labels=configured)},
        {"mine": {"train": table("train", text=texts, label=labels), "validation": validation}},
    )
    assert not problems, problems
    return [
        notice.splitlines()[0].removeprefix("warning: train.csv: task mine: ") for notice in notices
    ]


def test_classes_that_look_the_same_are_named_with_a_row_of_each() -> None:
    assert doubts(["bad", "good", "bad ", "Bad", "good"] * 3) == [
        f"classes that differ in {ALIKE}: 'Bad' (row 4), 'bad' (row 1), 'bad ' (row 3)"
    ]
    assert doubts(["caf\u00e9", "cafe\u0301", "tea"] * 3) == [
        f"classes that differ in {ALIKE}: 'cafe\\u0301' (row 2), 'caf\\xe9' (row 1)"
    ]
    assert doubts(["new york", "new\u00a0 york", "\u200bparis", "Paris"] * 3) == [
        f"classes that differ in {ALIKE}: 'Paris' (row 4), '\\u200bparis' (row 3)",
        f"classes that differ in {ALIKE}: 'new york' (row 1), 'new\\xa0 york' (row 2)",
    ]
    assert doubts(["good", '"good"', "1", "01", "1.0", "2"] * 3) == [
        f"classes that differ in {ALIKE}: '\"good\"' (row 2), 'good' (row 1)",
        f"classes that differ in {ALIKE}: '01' (row 4), '1' (row 3), '1.0' (row 5)",
    ]
    assert doubts(["a", "b"], ["a", "b", "A"])[0].endswith("'a' (row 1), 'A'")
    assert doubts(["1", "2", "3+", "+1", "a b", "ab"] * 3) == []
    many = doubts([each for letter in "abcdefgh" for each in (letter, letter.upper())] * 3)
    assert len(many) == 6 and many[-1] == "3 more groups of such classes"


def test_a_class_that_reads_as_none_is_doubted_unless_it_is_named() -> None:
    names = [*["good", "None", "bad", "N/A"] * 3, "Label"]
    config = {"mine": classification(labels=None)}
    tables = {
        "mine": {
            "train": table("train", text=[f"text {number}" for number in range(13)], label=names)
        }
    }
    assert [found.splitlines()[0] for found in check(config, tables)[1]] == [
        "warning: train.csv, row 13: task mine: class 'Label' is the name of its column: is the "
        "row a header left over from joined files?",
        "warning: train.csv, row 4: task mine: class 'N/A' looks like a missing label (and 2 "
        "more: rows 8, 12)",
        "warning: train.csv, row 2: task mine: class 'None' looks like a missing label (and 2 "
        "more: rows 6, 10)",
    ]
    assert check({"mine": classification(labels=sorted(set(names)))}, tables)[1] == []


def test_a_split_that_is_trained_on_and_validated_on_is_doubted() -> None:
    config = classification(splits=Splits(validation=["train"]))
    _, (found,) = check(
        {"mine": config}, {"mine": {"train": table("train", text=["x", "y"], label=[0, 1])}}
    )
    assert found.startswith(
        "warning: tasks.mine.splits.validation: split 'train' is used for both training and "
        "validation"
    )


def test_a_class_for_nearly_every_row_is_doubted() -> None:
    names = [f"id{number}" for number in range(20)]
    assert doubts(names) == ["20 classes for 20 rows: is column 'label' the label column?"]
    assert doubts(names[:12] + names[:6]) == [
        "12 classes for 18 rows: is column 'label' the label column?"
    ]
    assert doubts(names[:9] * 2) == [] and doubts(list("abc")) == []


def test_repeats_and_overlaps_are_counted() -> None:
    config = classification(columns=PAIR, splits=Splits(validation=["dev", "more"]))
    tables = {
        "train": table(
            "train",
            one=["a", "a", "a", "b", "a"],
            two=["x", "x", "x", "x", "y"],
            label=[0, 1, 0, 1, 0],
        ),
        "dev": table("dev", one=["a", "c"], two=["y", "x"], label=[0, 1]),
        "more": table("more", one=["b", "b", "A"], two=["x", "x", "x"], label=[0, 1, 1]),
    }
    problems, notices = check({"pairs": config}, {"pairs": tables})
    assert not problems
    assert [notice.splitlines()[0] for notice in notices] == [
        "warning: train.csv, row 2: task pairs: same text, different label, in 1 of 5 rows: 1 "
        "here, 0 "
        "in row 1",
        "warning: train.csv, row 3: task pairs: same text and label as an earlier row, in 1 of 5 "
        "rows: here as in row 1",
        "warning: more.csv, row 2: task pairs: same text, different label, in 1 of 3 rows: 1 here, "
        "0 "
        "in row 1",
        "warning: dev.csv, row 1: task pairs: the text is in train too, in 1 of 2 rows: here that "
        "of train.csv, row 5",
        "warning: more.csv, row 1: task pairs: the text is in train too, in 2 of 3 rows: here that "
        "of train.csv, row 4 (and 1 more: row 2)",
    ]


def test_doubts_are_summed_up_in_a_line_for_each_task() -> None:
    tables = {
        "train": table("train", text=["a", "a", "a", "b"], label=[0, 1, 0, 0]),
        "validation": table("validation", text=["b"], label=[0]),
    }
    tasks = build_tasks({"mine": classification(), "sound": classification()})
    sound = {"train": table("train", text=["x", "y"], label=[0, 1])}
    _, doubts = check_tables(tasks, {"mine": tables, "sound": sound})
    line, more = summary(doubts)
    assert line == (
        "warning: mine: train: 1 row has the text of another row but a different label; train: 1 "
        "row "
        "repeats an earlier row; "
        "validation: 1 row has its text in train, too"
    )
    assert "mtl tasks NAME (or FILE.yaml" in more and "data.warnings=all" in more
    assert summary({}) == []
    assert check_tables(tasks, {"mine": tables, "sound": sound}, doubts=False) == ([], {})


def test_questions_repeat_when_question_and_context_do_whatever_their_id() -> None:
    answers = [{"text": ["a"], "answer_start": [0]}] * 3
    train = table(
        "train",
        id=["1", "2", "3"],
        question=["q", "q", "q"],
        context=["a b", "a b", "a c"],
        answers=answers,
    )
    validation = table("validation", id=["4"], question=["q"], context=["a b"], answers=answers[:1])
    problems, notices = check(
        {"qa": SpanTask(source=Source(files={}))},
        {"qa": {"train": train, "validation": validation}},
    )
    assert not problems
    assert [notice.splitlines()[0] for notice in notices] == [
        "warning: train.csv, row 2: task qa: same text as an earlier row, in 1 of 3 rows: here as "
        "in row 1",
        "warning: validation.csv, row 1: task qa: the text is in train too, in 1 of 1 row: here "
        "that of train.csv, row 1",
    ]


def test_a_task_that_is_only_evaluated_has_no_overlaps() -> None:
    config = classification(splits=Splits(train=None, validation=["test"]))
    assert check(
        {"ax": config}, {"ax": {"test": table("test", text=["x", "x"], label=[0, 1])}}
    ) == ([], [])
