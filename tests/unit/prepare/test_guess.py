"""The guess of a task from its rows: type, columns and labels."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mtlcli.data.read import read_file
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.prepare.guess import Guess, guess_task

dice = random.Random(0)
ROWS = 60
TEXTS = [f"the {dice.choice(['film', 'book'])} number {row} was fine" for row in range(ROWS)]
OTHERS = [f"nobody has read number {row} twice" for row in range(ROWS)]
TWO = [dice.choice(["pos", "neg"]) for _ in TEXTS]
STARS = [dice.randint(1, 5) for _ in TEXTS]
SCORES = [round(dice.random() * 5, 3) for _ in TEXTS]
ANSWERS = [{"text": ["fine"], "answer_start": [text.index("fine")]} for text in TEXTS]
TAGS = [["N" if word == "film" else "O" for word in text.split()] for text in TEXTS]
LABELS = [dice.sample(["joy", "fear", "love"], dice.randint(0, 2)) for _ in TEXTS]
FLAGS = {name: [dice.randint(0, 1) for _ in TEXTS] for name in ("toxic", "obscene", "threat")}

CASES: dict[str, tuple[dict[str, list[Any]], str, dict[str, Any], Any]] = {
    # Columns of the table, the type, the columns of the task, and its labels or further keys.
    "index": (
        {"Unnamed: 0": list(range(ROWS)), "kommentar": TEXTS, "x": TWO},
        "classification",
        {"text": "kommentar", "label": "x"},
        ["neg", "pos"],
    ),
    "stars": (
        {"review_id": [f"a{row}" for row in range(ROWS)], "stars": STARS, "body": TEXTS},
        "classification",
        {"text": "body", "label": "stars"},
        ["1", "2", "3", "4", "5"],
    ),
    "score": (
        {"s1": TEXTS, "s2": OTHERS, "mean": SCORES},
        "regression",
        {"text": "s1", "text_pair": "s2", "label": "mean"},
        {},
    ),
    "comma": (
        {"text": TEXTS, "note": [f"{score:.1f}".replace(".", ",") for score in SCORES]},
        "regression",
        {"text": "text", "label": "note"},
        {"decimal_comma": True},
    ),
    "price": (
        {"description": TEXTS, "price": [dice.randint(100, 9999) for _ in TEXTS]},
        "regression",
        {"text": "description", "label": "price"},
        {},
    ),
    "pair": (
        {"premise": TEXTS, "hypothesis": OTHERS, "gold_label": TWO, "annotator": STARS},
        "classification",
        {"text": "premise", "text_pair": "hypothesis", "label": "gold_label"},
        ["neg", "pos"],
    ),
    "title": (
        {"title": [text[:12] for text in TEXTS], "text": [text * 4 for text in TEXTS], "c": TWO},
        "classification",
        {"text": "text", "label": "c"},
        ["neg", "pos"],
    ),
    "truth": (
        {"text": TEXTS, "spam": [label == "pos" for label in TWO]},
        "classification",
        {"text": "text", "label": "spam"},
        ["false", "true"],
    ),
    "float_classes": (
        {"text": TEXTS, "y": ["1.0" if label == "pos" else "0.0" for label in TWO]},
        "classification",
        {"text": "text", "label": "y"},
        ["0.0", "1.0"],
    ),
    "some_missing": (
        {"text": TEXTS, "label": [*TWO[:50], *[None] * 10]},
        "classification",
        {"text": "text", "label": "label"},
        {"unlabelled": "skip"},
    ),
    "dates": (
        {
            "url": [f"https://example.org/{row}" for row in range(ROWS)],
            "date": [f"2021-03-{row % 28 + 1:02}" for row in range(ROWS)],
            "headline": TEXTS,
            "category": TWO,
        },
        "classification",
        {"text": "headline", "label": "category"},
        ["neg", "pos"],
    ),
    "chinese": (
        {"问题": [f"我想知道第{row}个航班什么时候起飞" for row in range(ROWS)], "意图": TWO},
        "classification",
        {"text": "问题", "label": "意图"},
        ["neg", "pos"],
    ),
    "squad": (
        {"qid": [f"q{row}" for row in range(ROWS)], "query": ["how was it?"] * ROWS}
        | {"passage": TEXTS, "gold": ANSWERS},
        "span",
        {"id": "qid", "question": "query", "context": "passage", "answers": "gold"},
        {},
    ),
    "tags": (
        {"words": [text.split() for text in TEXTS], "pos": TAGS},
        "tagging",
        {"words": "words", "label": "pos"},
        ["N", "O"],
    ),
    "lists": (
        {"text": TEXTS, "emotions": LABELS},
        "multilabel",
        {"text": "text", "label": "emotions"},
        ["fear", "joy", "love"],
    ),
    "joined": (
        {"text": TEXTS, "moods": ["; ".join(labels) or None for labels in LABELS]},
        "multilabel",
        {"text": "text", "label": "moods"},
        {"separator": ";", "unlabelled": "skip"},
    ),
    "few_combinations": (
        {"text": TEXTS, "labels": [["joy;love", "anger", None][row % 3] for row in range(ROWS)]},
        "multilabel",
        {"text": "text", "label": "labels"},
        {"separator": ";", "unlabelled": "skip"},
    ),
    "arc": (
        {"id": [f"q{row}" for row in range(ROWS)], "question": TEXTS}
        | {"choices": [{"text": ["a lamp", "it"], "label": ["A", "B"]}] * ROWS}
        | {"answerKey": ["AB"[row % 2] for row in range(ROWS)]},
        "choice",
        {"context": "question", "options": "choices.text", "label": "answerKey"},
        {},
    ),
    "query_ids": (
        {"qid": [f"q{row // 4}" for row in range(ROWS)], "document": OTHERS}
        | {"query": [TEXTS[row // 4] for row in range(ROWS)], "relevance": STARS},
        "ranking",
        {"query": "query", "candidates": "document", "label": "relevance", "query_id": "qid"},
        {},
    ),
    "two_ids": (
        {"qid": [f"q{row // 4}" for row in range(ROWS)], "left": OTHERS, "right": TEXTS}
        | {"score": FLAGS["toxic"]},
        "classification",
        {"text": "left", "text_pair": "right", "label": "score"},
        ["0", "1"],
    ),
    "thousandths": (
        {"text": TEXTS, "score": [f"{row % 2},{row + 100}" for row in range(ROWS)]},
        "regression",
        {"text": "text", "label": "score"},
        {"decimal_comma": True},
    ),
    "marks": (
        {"sentence": [f"<e1>I</e1> saw <e2>it</e2>, {text}" for text in TEXTS], "rel": TWO},
        "relation",
        {"text": "sentence", "label": "rel"},
        ["neg", "pos"],
    ),
    "options": (
        {"article": TEXTS, "question": ["what is it?"] * ROWS}
        | {"options": [["a film", "a book"]] * ROWS, "answer": [each % 2 + 1 for each in STARS]},
        "choice",
        {"context": "article", "question": "question", "options": "options", "label": "answer"},
        {"first_option": 1},
    ),
    "endings": (
        {"sent": TEXTS, "ending0": OTHERS, "ending1": TEXTS, "label": FLAGS["toxic"]},
        "choice",
        {"context": "sent", "options": ["ending0", "ending1"], "label": "label"},
        {},
    ),
    "candidates": (
        {"query": TEXTS, "passages": [OTHERS[:3]] * ROWS, "relevant": [[0, 1, 0]] * ROWS},
        "ranking",
        {"query": "query", "candidates": "passages", "label": "relevant"},
        {},
    ),
    "summary": (
        {"id": list(range(ROWS)), "summary": OTHERS, "document": [text * 5 for text in TEXTS]},
        "seq2seq",
        {"text": "document", "target": "summary"},
        {},
    ),
    "languages": (
        {"translation": [{"en": text, "de": text} for text in TEXTS]},
        "seq2seq",
        {"text": "translation.en", "target": "translation.de"},
        {},
    ),
    "flags": (
        {"text": TEXTS, **FLAGS},
        "multilabel",
        {"text": "text", "label": ["toxic", "obscene", "threat"]},
        {},
    ),
}


def guess(columns: dict[str, list[Any]]) -> Guess:
    return guess_task(Table(pa.table(columns), "rows.csv", "train"))


@pytest.mark.parametrize("name", CASES)
def test_a_task_is_guessed_from_its_columns(name: str) -> None:
    columns, kind, roles, more = CASES[name]
    found = guess(columns)
    assert (found.type, found.columns) == (kind, roles)
    if isinstance(more, list):
        assert (found.labels, found.settings) == (more, {})
    else:
        assert found.settings == more


def test_parts_of_speech_are_the_tags_of_a_conllu_file(tmp_path: Path) -> None:
    words = [
        "1\tDogs\tdog\tNOUN\tNNS\t_\t2\tnsubj\t_\t_",
        "2\tbark\tbark\tVERB\tV\t_\t0\troot\t_\t_",
    ]
    (tmp_path / "a.conllu").write_text("\n".join([*words, ""]) * 3)
    found = guess_task(read_file(tmp_path / "a.conllu", "train"))
    assert (found.type, found.columns) == ("tagging", {"words": "tokens", "label": "upos"})
    assert found.labels == ["NOUN", "VERB"]
    assert {"xpos", "deprel"} <= set(found.others["label"])


def test_names_that_the_file_gives_to_numbers_are_the_classes() -> None:
    feature = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    about = json.dumps({"info": {"features": feature}})
    rows = pa.table({"text": TEXTS, "label": FLAGS["toxic"]})
    rows = rows.replace_schema_metadata({"huggingface": about})
    assert guess_task(Table(rows, "rows.parquet", "train")).labels == ["bad", "good"]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"text": TEXTS}, "text (text)"),
        ({"a": list(range(ROWS)), "label": TWO}, "a (whole numbers); label (text)"),
        ({"doc": [{"text": text} for text in TEXTS], "label": TWO}, "what is inside 'doc'"),
    ],
)
def test_rows_without_a_text_or_a_label_are_refused(columns: Any, what: str) -> None:
    with pytest.raises(UserError) as caught:
        guess(columns)
    assert "no task can be guessed" in str(caught.value) and what in str(caught.value)


OPTIONS = [["lamp", "stone", "table", f"cup {row}"] for row in range(ROWS)]
REFUSED: dict[str, tuple[dict[str, list[Any]], str, str]] = {
    # Columns of the table, what is said of them, and the remedy.
    "text_of_the_option": (
        {"question": TEXTS, "choices": OPTIONS, "answer": ["lamp", "stone"] * (ROWS // 2)},
        "'answer' holds the text of one of the options in 'choices', as in 'lamp'",
        "0 for the first option (in Python: row['choices'].index(row['answer']))",
    ),
    "options_in_another_order": (
        {"question": TEXTS, "answerKey": ["A", "B"] * (ROWS // 2)}
        | {"choices": [{"text": ["a lamp", "it"], "label": ["1", "2"]}] * ROWS},
        "'choices' holds options as objects",
        "A, B, C ... in each row",
    ),
    "lists_as_text": (
        {"text": TEXTS, "labels": [str(labels or ["none"]) for labels in LABELS]},
        "'labels' holds lists written as text",
        "with a separator between them (joy;love)",
    ),
    "tags_as_text": (
        {
            "sentence": [f"Anna met Bob {row}" for row in range(ROWS)],
            "ner": [["B-PER O B-PER O", "B-PER O O O"][row % 2] for row in range(ROWS)],
        },
        "'ner' holds a tag for each word of 'sentence'",
        "write a .conll file",
    ),
    "thousands": (
        {"text": TEXTS, "price": [f"1,{row:03}" for row in range(ROWS)]},
        "'price' have three digits after each comma, as in 1,000: thousands, or decimals",
        "take the commas out",
    ),
    "millions": (
        {"text": TEXTS, "price": [f"{row + 1},000,{row:03}" for row in range(ROWS)]},
        "as in 1,000,000",
        "take the commas out",
    ),
    "one_class": (
        {"text": TEXTS, "label": ["pos"] * ROWS},
        "'label' holds one value only, 'pos'",
        "two classes",
    ),
    "one_class_of_pairs": (
        {"premise": TEXTS, "hypothesis": OTHERS, "label": ["pos"] * ROWS},
        "'label' holds one value only, 'pos'",
        "two classes",
    ),
    "many_classes": (
        {"text": TEXTS, "label": [f"class{row % 45}" for row in range(ROWS)]},
        "45 different values in 60 rows: too many to be classes",
        "each class needs several rows",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_column_that_must_be_written_otherwise_is_refused(name: str) -> None:
    columns, what, fix = REFUSED[name]
    with pytest.raises(UserError) as caught:
        guess(columns)
    assert what in str(caught.value) and fix in str(caught.value)


def test_other_columns_do_not_hinder_a_guess() -> None:
    tags = [" ".join("N" for _ in text.split()) for text in TEXTS]
    prices = [f"1,{row:03}" for row in range(ROWS)]
    words = ["['good', 'film']", "[]"] * (ROWS // 2)
    more = {"keywords": words, "pos": tags, "price": prices, "language": ["en"] * ROWS}
    found = guess({"text": TEXTS, **more, "label": TWO})
    assert (found.type, found.columns) == ("classification", {"text": "text", "label": "label"})
