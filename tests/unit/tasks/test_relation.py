"""Relations: marks in text, ranges of words, markers as tokens, row checks, the head, metrics."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import f1_score
from tokenizers import Tokenizer

from mtlcli.config.task import Source
from mtlcli.data.encoder import TextEncoder, _around
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.metrics import compute
from mtlcli.tasks.base import Encoded
from mtlcli.tasks.heads import EntityHead
from mtlcli.tasks.relation import RelationColumns, RelationTask
from mtlcli.tasks.relation.task import Relation, _of_text

SPANS = {"first": ["s0", "s1"], "second": ["o0", "o1"]}
WORDS = {
    "text": [["Anna", "met", "the", "old", "baker"], ["a", "b", "c", "d", "e"]],
    "s0": [0, 3],
    "s1": [0, 4],
    "o0": [3, 1],
    "o1": [4, 1],
    "relation": ["x", "y"],
}


def task(**options: Any) -> Relation:
    columns = RelationColumns(
        text="text", first=options.pop("first", None), second=options.pop("second", None)
    )
    return Relation(
        "toy", RelationTask(source=Source(path="x"), columns=columns, max_length=32, **options)
    )


def table(columns: dict[str, Any]) -> Table:
    return Table(pa.table(columns), "toy.jsonl", "train")


def tokenizer(*more: str) -> str:
    text = build_tokenizer(["anna met the old baker a b c d e < > / 1 2"] * 3, 90)
    if not more:
        return text
    settings = json.loads(text)
    vocabulary = settings["model"]["vocab"]
    for name in more:
        vocabulary[name] = len(vocabulary)
    return json.dumps(settings)


@pytest.mark.parametrize(
    ("text", "plain", "entities"),
    [
        ("The <e1>car</e1> of <e2>Ann Li</e2>.", "The car of Ann Li.", ("car", "Ann Li")),
        ("<e2> a </e2>,<e1>b</e1>", " a ,b", ("b", "a")),
        ("x <e1>a</e1><e2>b</e2> y", "x ab y", ("a", "b")),
    ],
)
def test_marks_are_taken_out_of_the_text(text: str, plain: str, entities: tuple[str, str]) -> None:
    marked = _of_text(text)
    assert marked is not None
    assert marked.text.split() == plain.split()
    assert tuple(marked.text[begin:end] for begin, end in marked.entities) == entities


def test_the_positions_are_those_of_the_markers_before_the_entities() -> None:
    made = task(**SPANS)
    names = [f"[unused{number}]" for number in range(1, 5)]
    for text, marks in ((tokenizer(*names), names), (tokenizer(), ["<", "<"])):
        made.prepare(table(WORDS))
        features = made.encode(table(WORDS), TextEncoder(text, uses_segments=False))
        known = Tokenizer.from_str(text)
        for row in range(2):
            ids = features.ids[features.offsets[row] : features.offsets[row + 1]]
            tokens = [known.id_to_token(int(token)) for token in ids]
            first, second = features.columns["first"][row], features.columns["second"][row]
            assert [tokens[first], tokens[second]] == [marks[0], marks[-2]]
            if len(marks) == 4:
                assert tokens[first + 1] == ("anna", "d")[row]
                assert tokens[second + 1] == ("old", "b")[row]
                assert sum(token in names for token in tokens) == 4


def test_the_built_in_tokenizer_knows_four_markers() -> None:
    made, rows = task(**SPANS), table(WORDS)
    made.prepare(rows)
    known = Tokenizer.from_str(build_tokenizer(made.texts(rows), 90))
    features = made.encode(rows, TextEncoder(known.to_str(), uses_segments=False))
    for row in range(2):
        ids = features.ids[features.offsets[row] : features.offsets[row + 1]].tolist()
        tokens = [known.id_to_token(number) for number in ids]
        assert {f"[unused{number}]" for number in range(1, 5)} < set(tokens)
        assert "[UNK]" not in tokens
    assert "[unused1]" not in build_tokenizer(made.texts(rows)[:-1], 90), "other tasks need none"


@pytest.mark.parametrize(
    "places", [[0, 3], [2, 40], [50, 10], [0, 99], [95, 60], [99, 0], [98, 99]]
)
@pytest.mark.parametrize("room", [12, 31])
def test_a_long_text_keeps_what_stands_around_the_entities(places: list[int], room: int) -> None:
    kept = _around(100, places, room)
    assert len(kept) == room and set(places) <= set(kept.tolist())
    assert kept.tolist() == sorted(set(kept.tolist())) and kept[0] >= 0 and kept[-1] < 100


@pytest.mark.parametrize(
    ("columns", "options", "what", "fix"),
    [
        ({"text": ["<e1>a</e1> b"]}, {}, "row 1: column 'text' does not mark two", "<e1>...</e1>"),
        ({"text": ["<e1>a <e2>b</e1> c</e2>"]}, {}, "does not mark two entities", "one entity"),
        ({"text": ["<e1> </e1> <e2>b</e2>"]}, {}, "does not mark two entities", "one entity"),
        ({**WORDS, "o1": [5, 1]}, SPANS, "row 1: the entities are no words", "from 0"),
        ({**WORDS, "o0": [0, 1]}, SPANS, "row 1: the entities are no words of the row", "from 0"),
        ({**WORDS, "s0": ["a", "b"]}, SPANS, "column 's0' holds text", "columns.first"),
        ({**WORDS, "text": ["a", "b"]}, SPANS, "column 'text' holds text", "list of words"),
    ],
)
def test_bad_rows_are_refused(
    columns: dict[str, Any], options: dict[str, Any], what: str, fix: str
) -> None:
    rows = table({"relation": ["x"] * len(columns["text"]), **columns})
    made = task(labels=["x", "y"], **options)
    made.prepare(rows)
    found = [str(problem) for problem in made.check(rows, labelled=True)]
    assert len(found) == 1 and what in found[0] and fix in found[0], found


def test_the_head_reads_the_two_states() -> None:
    torch.manual_seed(0)
    head = EntityHead(4, 3, 0.0, layers=0)
    hidden = torch.randn(2, 6, 4)
    encoded = Encoded(hidden, hidden[:, 0], torch.ones(2, 6, dtype=torch.bool))
    found = head(encoded, torch.tensor([1, 4]), torch.tensor([5, 0]))["logits"]
    for row, (first, second) in enumerate(((1, 5), (4, 0))):
        states = torch.cat([hidden[row, first], hidden[row, second]])
        assert torch.allclose(found[row], head.output(states))


def test_f1_of_relations() -> None:
    names = ["A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "B(e2,e1)", "Other"]
    random = np.random.default_rng(1)
    truth, found = random.integers(0, 5, 80).tolist(), random.integers(0, 5, 80).tolist()
    micro = compute("relation_f1_micro", found, truth, names=names, none="Other")
    assert micro["relation_f1_micro"] == pytest.approx(
        f1_score(truth, found, labels=[0, 1, 2, 3], average="micro")
    )
    # By hand, as the official scorer counts: a wrong direction is predicted and missed.
    scores = []
    for pair in ((0, 1), (2, 3)):
        right = sum(p == t and t in pair for p, t in zip(found, truth, strict=True))
        precision = right / sum(p in pair for p in found)
        recall = right / sum(t in pair for t in truth)
        scores.append(2 * precision * recall / (precision + recall))
    macro = compute("relation_f1_macro", found, truth, names=names, none="Other")
    assert macro["relation_f1_macro"] == pytest.approx(np.mean(scores))
