"""Metrics of tag sequences: the accuracy of tags, and precision, recall and F1 of the entities that
tags such as B-PER and I-PER spell.

The entities are those of the package seqeval in its default mode, which is that of the script
conlleval of CoNLL-2000 (Tjong Kim Sang & Buchholz 2000), malformed sequences included. seqeval
itself is not used: it has had no release since 2020, and it is a thin loop over the same rules; a
test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mtlcli.metrics import metric

OUTSIDE_TAG = "O"
"""The tag of a word outside of all entities."""
ENTITY_TAG = re.compile(r"[BIESLU]-.+", re.DOTALL)
"""The form of a tag inside an entity. The scheme BILOU has L for E and U for S."""
SAME = {"L": "E", "U": "S"}

ENDS = frozenset("ELSU")
"""The prefixes with which a scheme marks where entities end."""

Entity = tuple[str, int, int]
"""The type of an entity, and its first and its last word, numbered from 0."""


def spell_entities(tags: Iterable[str]) -> bool:
    """Return whether tags spell entities: there is O, and all others have a form like B-PER."""
    tags = set(tags)
    others = tags - {OUTSIDE_TAG}
    return OUTSIDE_TAG in tags and bool(others) and all(map(ENTITY_TAG.fullmatch, others))


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sequence of tags in BIO, IOB1, BIOES or BILOU, in order.

    An entity begins at B or S, at I or E after O or after the end of an entity (E or S), and where
    the type changes. It ends before O, B and S, after E and S, and where the type changes.
    """
    found: list[Entity] = []
    open_type, begin, before = "", 0, OUTSIDE_TAG
    for place, tag in enumerate([*tags, OUTSIDE_TAG]):
        prefix, _, kind = tag.partition("-")
        prefix = SAME.get(prefix, prefix)
        inside = before in ("B", "I")
        if before != OUTSIDE_TAG and (
            not inside or prefix in ("B", "S", OUTSIDE_TAG) or kind != open_type
        ):
            found.append((open_type, begin, place - 1))
            inside = False
        if prefix != OUTSIDE_TAG and not inside:
            open_type, begin = kind, place
        before = prefix
    return found


def has_ends(tags: Iterable[str]) -> bool:
    """Return whether tags mark where entities end, as in BIOES and BILOU."""
    return any(tag != OUTSIDE_TAG and tag[0] in ENDS for tag in tags)


def may_follow(before: str, tag: str, *, ends: bool) -> bool:
    """Return whether BIO, or a scheme that marks the ends of entities, allows a tag after another.
    The beginning and the end of a sentence are like O."""
    (prefix, _, kind), (new, _, other) = before.partition("-"), tag.partition("-")
    opened, inside = prefix in ("B", "I"), new in ("I", "E", "L")
    if inside:
        return opened and kind == other
    return not (ends and opened)


@metric("tag_accuracy", "tagging")
def tag_accuracy(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the share of words whose tag is right, 0 to 1, over all sequences."""
    words = sum(map(len, references))
    right = sum(
        one == other
        for found, gold in zip(predictions, references, strict=True)
        for one, other in zip(found, gold, strict=True)
    )
    return {"tag_accuracy": right / words if words else 0.0}


@metric("entity_f1", "tagging", keys=("entity_f1", "entity_precision", "entity_recall"))
def entity_f1(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return F1, precision and recall of whole entities, 0 to 1, over all sequences (micro
    average). An entity is right when its type and both its ends are. A score without any entity to
    count is 0."""
    right = predicted = there = 0
    for found, gold in zip(predictions, references, strict=True):
        ours, theirs = set(entities(found)), set(entities(gold))
        right += len(ours & theirs)
        predicted += len(ours)
        there += len(theirs)
    return {
        "entity_f1": 2 * right / (predicted + there) if predicted + there else 0.0,
        "entity_precision": right / predicted if predicted else 0.0,
        "entity_recall": right / there if there else 0.0,
    }
