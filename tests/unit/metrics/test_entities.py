"""Entities and their scores, against the package seqeval."""

from __future__ import annotations

import random
import warnings

import pytest

from mtlcli.metrics import compute
from mtlcli.metrics.entities import entities, spell_entities


def random_sequences(tags: list[str]) -> list[list[str]]:
    """Return 500 sequences of any tags in any order, so that most are malformed."""
    draw = random.Random(7)
    return [[draw.choice(tags) for _ in range(draw.randint(1, 12))] for _ in range(500)]


@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
def test_scores_are_those_of_seqeval(prefixes: str) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    from seqeval.metrics.sequence_labeling import get_entities

    tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in ("PER", "X-Y"))]
    gold = random_sequences(tags)
    draw = random.Random(8)
    found = [[tag if draw.random() < 0.7 else draw.choice(tags) for tag in row] for row in gold]
    for row in gold:
        assert entities(row) == get_entities(row)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = [
            seqeval.f1_score(gold, found),
            seqeval.precision_score(gold, found),
            seqeval.recall_score(gold, found),
        ]
    assert list(compute("entity_f1", found, gold).values()) == pytest.approx(theirs, abs=1e-12)
    assert compute("tag_accuracy", found, gold)["tag_accuracy"] == pytest.approx(
        seqeval.accuracy_score(gold, found), abs=1e-12
    )


def test_bilou_is_read_as_bioes() -> None:
    tags = ["B-PER", "I-PER", "L-PER", "U-LOC", "U-LOC", "O"]
    assert entities(tags) == [("PER", 0, 2), ("LOC", 3, 3), ("LOC", 4, 4)]


def test_scores_without_any_entity_are_0() -> None:
    scores = compute("entity_f1", [["O", "O"]], [["O", "O"]])
    assert scores == {"entity_f1": 0.0, "entity_precision": 0.0, "entity_recall": 0.0}


@pytest.mark.parametrize(
    ("tags", "spell"),
    [
        (["O", "B-PER", "I-PER"], True),
        (["NOUN", "VERB", "X"], False),
        (["B-PER", "I-PER"], False),
        (["O"], False),
    ],
)
def test_which_tags_spell_entities(tags: list[str], spell: bool) -> None:
    assert spell_entities(tags) is spell
