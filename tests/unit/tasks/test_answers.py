"""Labels that are written as texts and read back (`form=text`)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from mtlcli.config.task import Source
from mtlcli.data.table import Table
from mtlcli.tasks.answers import FreeText
from mtlcli.tasks.base import build_tasks
from mtlcli.tasks.choice import ChoiceColumns, ChoiceTask
from mtlcli.tasks.multilabel import MultilabelColumns, MultilabelTask
from mtlcli.tasks.relation import RelationColumns, RelationTask
from mtlcli.tasks.seq2seq import Seq2SeqTask
from mtlcli.tasks.tagging import TaggingTask

SOURCE = Source(path="x")
WORDS = [["Zoé", "saw", "New York", ";", "Rome", "Inc"], ["Rome", "!"], ["no"]]
BIO = [["B-PER", "O", "B-LOC", "O", "B-ORG", "I-ORG"], ["B-LOC", "O"], ["O"]]
BIOES = [["S-PER", "O", "S-LOC", "O", "B-ORG", "E-ORG"], ["S-LOC", "O"], ["O"]]
POS = [["PROPN", "VERB", "PROPN", "PUNCT", "PROPN", "X"], ["PROPN", "PUNCT"], ["INTJ"]]


def prepared(config: Any, columns: dict[str, Any]) -> tuple[Any, Table]:
    """A task that knows its labels, and its rows."""
    (task,) = build_tasks({"toy": config}).values()
    table = Table(pa.table(columns), "toy.jsonl", "train")
    task.prepare(table)
    assert not task.check(table, labelled=True)
    return task, table


def answers(task: Any) -> FreeText:
    found = task.answers()
    assert isinstance(found, FreeText)
    return found


@pytest.mark.parametrize("tags", [BIO, BIOES, POS])
def test_tags_are_written_and_read_back(tags: list[list[str]]) -> None:
    task, table = prepared(TaggingTask(source=SOURCE), {"tokens": WORDS, "tags": tags})
    texts = [text or "" for text in answers(task).texts(table)]
    if tags is POS:
        assert texts[1] == "Rome: PROPN; !: PUNCT"
    else:
        assert texts == ["Zoé: PER; New York: LOC; Rome Inc: ORG", "Rome: LOC", "none"]
    # As a tokenizer without case and accents writes them.
    lower = [text.lower().replace("é", "e").replace(":", " :").replace(";", " ;") for text in texts]
    for written in (texts, lower):
        found = answers(task).from_texts(written, table)
        assert [row["tags"] for row in found] == tags
    if tags is not POS:
        assert found[0]["entities"][2] == {"type": "ORG", "text": "Rome Inc", "first": 4, "last": 5}


def test_an_answer_that_is_partly_wrong_costs_its_own_tags() -> None:
    task, table = prepared(TaggingTask(source=SOURCE), {"tokens": WORDS, "tags": BIO})
    found = answers(task).from_texts(["Zoé: LOC; nobody: PER; Inc: ORG", "Rome: CITY", ""], table)
    assert [row["tags"] for row in found] == [
        ["B-LOC", "O", "O", "O", "O", "B-ORG"],
        ["O", "O"],
        ["O"],
    ]
    task, table = prepared(TaggingTask(source=SOURCE), {"tokens": WORDS, "tags": POS})
    (first, *_) = answers(task).from_texts(["saw: VERB; Rome: PROPN", "", ""], table)
    other = task.labels[0]
    assert first["tags"] == [other, "VERB", other, other, "PROPN", other]


def test_labels_are_listed_and_read_back() -> None:
    config = MultilabelTask(source=SOURCE, columns=MultilabelColumns(text="text"))
    rows = [["joy", "not_ok"], [], ["anger"]]
    task, table = prepared(config, {"text": ["a", "b", "c"], "labels": rows})
    written = answers(task).texts(table)
    assert written == ["joy, not ok", "none", "anger"]
    found = answers(task).from_texts([*written[:2], "Anger , what, joy"], table)
    assert [row["labels"] for row in found] == [["joy", "not_ok"], [], ["anger", "joy"]]
    assert task.metric_inputs("f1_micro", found)["predictions"][1] == [0, 0, 0]


def test_labels_with_a_comma_are_apart() -> None:
    config = MultilabelTask(source=SOURCE, columns=MultilabelColumns(text="text"))
    rows = [["red, white", "blue"], ["blue"]]
    task, table = prepared(config, {"text": ["a", "b"], "labels": rows})
    written = answers(task).texts(table)
    assert written == ["blue; red, white", "blue"]
    (first, _) = answers(task).from_texts([text or "" for text in written], table)
    assert first["labels"] == ["blue", "red, white"]


def test_targets_are_answers() -> None:
    config = Seq2SeqTask(source=SOURCE, prefix="translate: ", max_target_length=9)
    task, table = prepared(config, {"text": ["a", "b"], "target": ["x y", "z"]})
    assert answers(task).texts(table) == ["x y", "z"]
    assert answers(task).longest(128) == 9
    assert answers(task).from_texts([" x ", ""], table) == [{"text": "x"}, {"text": ""}]
    assert task.prompt_texts(table, "text") == ["translate: a", "translate: b"]


def test_prompts_name_entities_and_options() -> None:
    relation = RelationTask(source=SOURCE, columns=RelationColumns(text="s"))
    rows = {"s": ["An <e1>old key</e1> of <e2>a door</e2>.", "<e2>B</e2> has <e1>A</e1>"]}
    task, table = prepared(relation, rows | {"relation": ["part", "other"]})
    assert [task.prompt_texts(table, name) for name in task.config.text_columns] == [
        ["An old key of a door.", "B has A"],
        ["old key", "A"],
        ["a door", "B"],
    ]
    columns = ChoiceColumns(context="c", question="q", options="o")
    choice = ChoiceTask(source=SOURCE, columns=columns)
    rows = {"c": ["one"], "q": ["what?"], "o": [["a", "b"]], "label": [1]}
    task, table = prepared(choice, rows)
    assert task.config.text_columns == ["c", "q", "o"]
    assert task.prompt_texts(table, "o") == ["- a - b"]
