"""The rows of train that are kept for validation."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtlcli.config.run import Data
from mtlcli.config.task import HoldOut, Source, Splits, TextColumns
from mtlcli.data.hold_out import fold_numbers, kept_out
from mtlcli.data.source import open_source
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.tasks.classification import ClassificationTask
from mtlcli.tasks.ranking import RankingColumns, RankingTask


def table(**values: list[Any]) -> Table:
    return Table(pa.table(values), "rows.csv", "train")


def test_each_class_keeps_its_share_and_train_has_every_class() -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]
    rows = table(label=labels)
    held = kept_out(rows, HoldOut(fraction=0.2), "label")
    counts = {each: int(held[[label == each for label in labels]].sum()) for each in "abcd"}
    assert counts == {"a": 12, "b": 6, "c": 2, "d": 0}


def test_the_draw_depends_on_its_seed_alone() -> None:
    rows = table(label=list("ab") * 50)
    one = kept_out(rows, HoldOut(), "label")
    assert (one == kept_out(rows, HoldOut(), "label")).all()
    assert (one != kept_out(rows, HoldOut(seed=1), "label")).any()
    # Another label column of the same file has the same rows, if classes do not divide them.
    plain = HoldOut(stratify=False)
    assert (kept_out(rows, plain, "label") == kept_out(rows, plain, "other")).all()


def test_a_group_is_on_one_side() -> None:
    authors = [f"author {row * 7 % 23}" for row in range(200)] + [None, None]
    held = kept_out(table(who=authors), HoldOut(fraction=0.25, group="who"), None)
    sides = {
        side: {authors[row] for row in np.flatnonzero(held == side)} - {None}
        for side in (True, False)
    }
    assert not sides[True] & sides[False]
    assert abs(int(held.sum()) - 50) <= 5


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (HoldOut(fraction=0.01), "no row would be left for validation"),
        (HoldOut(fraction=0.99), "no row would be left for train"),
        (HoldOut(group="one"), "column 'one' has too few different values in 10 rows"),
        (HoldOut(group="wrong"), "there is no column 'wrong'"),
    ],
)
def test_a_side_without_rows_is_refused(settings: HoldOut, what: str) -> None:
    rows = table(label=list("ab") * 5, one=["x"] * 10)
    with pytest.raises(UserError) as caught:
        kept_out(rows, settings, "label")
    assert what in str(caught.value)


def test_both_sides_together_are_the_file(tmp_path: Path) -> None:
    text = "".join(f"text {row},{row % 2}\n" for row in range(50))
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + text)
    config = ClassificationTask(
        source=Source(files={"train": str(path)}),
        splits=Splits(hold_out=HoldOut(fraction=0.3)),
        columns=TextColumns(text="text"),
    )
    source = open_source(Data(max_train_rows=20), {"t": config})
    assert source.splits("t") == ["train", "validation"]
    train, validation = source.read("t", "train"), source.read("t", "validation")
    assert (len(train), len(validation), validation.split) == (20, 15, "validation")
    assert not set(train.column("text")) & set(validation.column("text"))
    # A message still names the line of the file.
    number = int(validation.column("text")[3].split()[1])
    assert validation.where(3) == f"{path}, line {number + 2}"


def test_the_rows_of_a_query_are_never_taken_apart(tmp_path: Path) -> None:
    """Neither by keeping rows out nor by a limit on their number."""
    path = tmp_path / "rows.csv"
    lines = [f"q{query},ask {query},answer {n},{n}" for query in range(20) for n in range(3)]
    path.write_text("\n".join(["id,query,candidate,label", *lines]))
    config = RankingTask(
        source=Source(files={"train": str(path)}),
        splits=Splits(hold_out=HoldOut(fraction=0.3)),
        columns=RankingColumns(query="query", candidates="candidate", query_id="id"),
    )
    for limit, expected in ((None, (42, 18)), (10, (9, 9))):
        source = open_source(Data(max_train_rows=limit, max_eval_rows=limit), {"t": config})
        sides = [source.read("t", split).column("id") for split in ("train", "validation")]
        assert tuple(map(len, sides)) == expected
        assert all(count == 3 for side in sides for count in Counter(side).values())
        assert not set(sides[0]) & set(sides[1])


def test_a_split_that_is_there_is_not_replaced() -> None:
    config = ClassificationTask(
        source=Source(path="glue/rte", kind="sample"),
        splits=Splits(hold_out=HoldOut(fraction=0.3)),
        columns=TextColumns(text="sentence1", text_pair="sentence2"),
    )
    source = open_source(Data(), {"t": config})
    with pytest.raises(UserError) as caught:
        source.read("t", "train")
    (problem,) = caught.value.problems
    assert problem.where == "tasks.t.splits.hold_out"
    assert "split 'validation' has rows of its own" in problem.what


def test_folds_have_their_share_of_each_class() -> None:
    labels = ["a"] * 60 + ["b"] * 31 + ["c"] * 9
    rows = table(label=labels)
    folds = fold_numbers(rows, 4, "label", None)
    assert np.bincount(folds).tolist() == [25, 25, 25, 25]
    for each, count in {"a": 60, "b": 31, "c": 9}.items():
        counts = np.bincount(folds[[label == each for label in labels]], minlength=4)
        assert counts.max() - counts.min() <= 1 and counts.sum() == count
    assert (folds == fold_numbers(rows, 4, "label", None)).all()


def test_folds_keep_groups_whole() -> None:
    writers = ["x"] * 10 + ["y"] * 6 + ["z"] * 5 + [None, None]
    folds = fold_numbers(table(writer=writers), 2, None, "writer")
    assert [len(set(folds[[each == name for each in writers]])) for name in "xyz"] == [1, 1, 1]
    assert sorted(np.bincount(folds).tolist()) == [11, 12]
    with pytest.raises(UserError, match="too few different values of column 'writer'"):
        fold_numbers(table(writer=["x", "y"]), 3, None, "writer")


def test_a_run_with_folds_reads_train_alone() -> None:
    splits = Splits(hold_out=HoldOut(fraction=0.2)).with_fold("fold_1_of_3")
    task = ClassificationTask(
        source=Source(path="glue/rte"),
        columns=TextColumns(text="sentence1"),
        labels=["entailment", "not_entailment"],
        splits=splits,
    )
    read: dict[str, list[set[str]]] = {"train": [], "fold": []}
    for fold in range(3):
        data = Data(source="sample", folds=3, fold=fold, max_train_rows=60)
        name = str(data.fold_split)
        source = open_source(data, {"rte": replace(task, splits=task.splits.with_fold(name))})
        sides = {"train": source.read("rte", "train"), "fold": source.read("rte", name)}
        for side, rows in sides.items():
            read[side].append({str(part) for part in rows.rows.column("sentence1").to_pylist()})
        assert sides["fold"].split == name and len(sides["fold"]) == 20
        assert len(sides["train"]) == 40 and not read["train"][fold] & read["fold"][fold]
        line = f"rte train 40 of 60, {name} 20 of 60"
        assert line in str(source.in_folds()) and "60 of" in str(source.drawn())
    assert len(set.union(*read["fold"])) == 60 and read["train"][0] == read["fold"][1].union(
        read["fold"][2]
    )
