"""Train rows that are removed because they repeat an earlier row, or stand in validation or test
too."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtlcli.config.run import Data
from mtlcli.config.section import replaced
from mtlcli.config.task import HoldOut, Source, Splits, TextColumns
from mtlcli.data.clean import contaminated, normalised, repetitions
from mtlcli.data.record import changed_data
from mtlcli.data.source import open_source
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.tasks.classification import ClassificationTask

dice = random.Random(3)
WORDS = ["Straße", "strasse", "ﬁne", "Fine", "été", "e\u0301te\u0301", "ＡＢ", "ab", "x", "y"]


def text(least: int, most: int) -> str:
    spaces = [" ", "  ", "\u00a0", "\n"]
    return "".join(
        dice.choice(WORDS) + dice.choice(["", "", ",", " -", "-x"]) + dice.choice(spaces)
        for _ in range(dice.randint(least, most))
    )


def table(texts: list[Any], pairs: list[Any], split: str = "train") -> Table:
    return Table(pa.table({"a": texts, "b": pairs, "label": [0] * len(texts)}), "x.csv", split)


def plain(value: Any) -> Any:
    """The form of a text that is compared, written once more: a letter at a time."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if value is None:
        return None
    kept, space = "", False
    form = unicodedata.normalize("NFKC", value).casefold()
    for letter in unicodedata.normalize("NFKC", form):
        if letter.isspace():
            space = True
        else:
            kept, space = kept + (" " if space and kept else "") + letter, False
    return kept


def thirteen(one: str, other: str) -> bool:
    """Whether two texts share 13 words in a row, place by place."""
    words = [
        [
            word
            for piece in plain(each).split(" ")
            if (word := "".join(letter for letter in piece if letter.isalnum()))
        ]
        for each in (one, other)
    ]
    return any(
        words[0][i : i + 13] == words[1][j : j + 13]
        for i in range(len(words[0]) - 12)
        for j in range(len(words[1]) - 12)
    )


def test_the_rows_are_those_of_a_double_loop() -> None:
    short = [[text(1, 2), dice.choice([text(1, 1), None])] for _ in range(160)]
    longs = [text(20, 30).replace(" -", ";") for _ in range(12)]
    middles = [
        " ".join(["anders", *each.upper().split()[3 : 3 + n], "hier"]).replace(";", "")
        for each in longs
        for n in (12, 13)
    ]
    rows = short[:100] + [[each, "z"] for each in middles]
    others = [short[100:130] + [[each, "q"] for each in longs[:6]], short[130:]]
    train, *tables = (
        table([row[0] for row in part], [row[1] for row in part]) for part in (rows, *others)
    )
    keys = [[plain(value) for value in row] for row in rows]
    again = [any(keys[earlier] == key for earlier in range(row)) for row, key in enumerate(keys)]
    everything = [row for part in others for row in part]
    equal = [any(list(map(plain, other)) == key for other in everything) for key in keys]
    shared = [
        same
        or any(
            thirteen(value, theirs)
            for value in row
            for other in everything
            for theirs in other
            if value and theirs
        )
        for row, same in zip(rows, equal, strict=True)
    ]
    assert repetitions(train, ["a", "b"]).tolist() == again
    assert contaminated(train, tables, ["a", "b"], "equal").tolist() == equal
    assert contaminated(train, tables, ["a", "b"], "overlap").tolist() == shared
    assert 5 < sum(again) < 100 and 5 < sum(equal) < 100 and sum(shared) - sum(equal) == 6


def test_the_form_in_which_texts_are_compared() -> None:
    assert normalised(" ＦＩＮＥ\u00a0\tﬁne\n") == "fine fine"
    assert normalised("ΐ") == normalised("ΐ".upper()) and normalised("Straße") == "strasse"
    assert normalised("a, b") != normalised("a b"), "punctuation counts"
    lists = table([["New", "York"], ["New York"], ["new", "YORK"], []], [1, 1, 1, None])
    assert repetitions(lists, ["a", "b"]).tolist() == [False, False, True, False]


ROWS = {
    "train": [
        "one,a",
        "two,b",
        "ONE ,b",
        "three,a",
        "four,",
        "five,b",
        "Five,a",
        "six,b",
        "nine,a",
    ],
    "validation": ["Three,a", "seven,b"],
    "test": ["two,a"],
    "test_hard": ["five,b"],
    "other": ["six,a"],
}


def task(folder: Path, **splits: Any) -> ClassificationTask:
    for split, rows in ROWS.items():
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows, ""]))
    return ClassificationTask(
        source=Source(files={split: str(folder / f"{split}.csv") for split in ROWS}),
        splits=Splits(**splits),
        columns=TextColumns(text="text"),
    )


def read(config: ClassificationTask, **data: Any) -> tuple[list[str], Any]:
    source = open_source(Data(**data), {"mine": config})
    has = lambda table: np.array([bool(each) for each in table.column("label")])  # noqa: E731
    return source.read("mine", "train", has, inputs=["text"]).column("text"), source


@pytest.mark.parametrize(
    ("data", "gone", "lines"),
    [
        ({}, set(), []),
        (
            {"deduplicate": True},
            {"ONE ", "Five"},
            ["an earlier row has the same inputs: mine train 2 of 9"],
        ),
        (
            {"deduplicate": True, "decontaminate": "equal"},
            {"ONE ", "two", "three", "five", "Five"},
            [
                "an earlier row has the same inputs: mine train 1 of 9",
                "validation or test has them (equal): mine train 4 of 9",
            ],
        ),
    ],
)
def test_train_loses_the_rows_before_others_are_drawn(
    tmp_path: Path, data: dict[str, Any], gone: set[str], lines: list[str]
) -> None:
    config = replaced(task(tmp_path), {"unlabelled": "skip"})
    texts, source = read(config, **data)
    assert texts == [
        each for row in ROWS["train"] if (each := row.split(",")[0]) not in gone | {"four"}
    ]
    assert source.removed() == [f"train rows removed because {line}" for line in lines]
    drawn, source = read(config, **data, max_train_rows=2)
    assert len(drawn) == 2 and set(drawn) <= set(texts)
    assert source.drawn().endswith(f"mine train 2 of {len(texts)}")
    for split in ("validation", "test"):
        assert len(source.read("mine", split, inputs=["text"])) == len(ROWS[split])
    counts = source.train_rows()["mine"]
    removed = counts.get("duplicates", 0) + counts.get("contaminated", 0)
    assert removed == len(gone) and counts["used"] == 2 and counts["unlabelled"] == 1


def test_rows_that_are_kept_out_of_train_count_as_validation(tmp_path: Path) -> None:
    part = HoldOut(fraction=0.2, stratify=False)
    config = task(tmp_path, validation=["held"], hold_out=part, calibration=part)
    rows = [f"text {row % 25},{row % 2}" for row in range(50)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows, ""]))
    texts, source = read(config, decontaminate="equal")
    scored = [source.read("mine", name).column("text") for name in ("held", "calibration")]
    whole, _ = read(config)
    assert texts == [each for each in whole if each not in sum(scored, [])]
    assert len(whole) + sum(map(len, scored)) == 50 and 3 < len(texts) < len(whole)


def test_what_cannot_be_cleaned_is_refused(tmp_path: Path) -> None:
    config = task(tmp_path)
    (tmp_path / "test.csv").write_text((tmp_path / "train.csv").read_text())
    with pytest.raises(
        UserError,
        match="(?s)data.decontaminate: task mine: no row of split 'train' would be left of 9",
    ):
        read(config, decontaminate="equal")
    (tmp_path / "test.csv").write_text("texts,label\none,a\n")
    with pytest.raises(UserError, match="(?s)test.csv.*there is no column 'text'.*texts"):
        read(config, decontaminate="overlap")
    with pytest.raises(UserError, match="rows of split 'train' are scored, too"):
        read(task(tmp_path, validation=["train"]), deduplicate=True)


def test_a_record_of_other_removed_rows_is_different_data(tmp_path: Path) -> None:
    config = task(tmp_path)

    def record(how: str | None) -> dict[str, Any]:
        return read(config, decontaminate=how)[1].record()

    before, off = record("equal"), record(None)
    assert changed_data(before, record("equal")) == [] == changed_data(off, before)
    # As many rows go as before, but others.
    (tmp_path / "test.csv").write_text("text,label\nsix,a\n")
    (problem,) = changed_data(before, record("equal"))
    assert "removed from train are not those" in problem.what
    del before["mine"]["splits"]["train"]["removed"]
    assert changed_data(before, record("equal")) == [], "runs of older versions have no such record"
