"""Rows of the tasks of named entities beside CoNLL-2003: WNUT-17 and OntoNotes."""

from __future__ import annotations

from random import Random
from typing import Any

from mtlcli.data.sample.tags import ENTITIES, named_entities
from mtlcli.data.sample.world import World

EMERGING = (
    *("O", "B-corporation", "I-corporation", "B-creative-work", "I-creative-work", "B-group"),
    *("I-group", "B-location", "I-location", "B-person", "I-person", "B-product", "I-product"),
)
"""The tags of WNUT-17, in the order of the hub's data set."""
ONTONOTES = (
    *("O", "B-CARDINAL", "B-DATE", "I-DATE", "B-PERSON", "I-PERSON", "B-NORP", "B-GPE", "I-GPE"),
    *("B-LAW", "I-LAW", "B-ORG", "I-ORG", "B-PERCENT", "I-PERCENT", "B-ORDINAL", "B-MONEY"),
    *("I-MONEY", "B-WORK_OF_ART", "I-WORK_OF_ART", "B-FAC", "B-TIME", "I-CARDINAL", "B-LOC"),
    *("B-QUANTITY", "I-QUANTITY", "I-NORP", "I-LOC", "B-PRODUCT", "I-TIME", "B-EVENT", "I-EVENT"),
    *("I-FAC", "B-LANGUAGE", "I-PRODUCT", "I-ORDINAL", "I-LANGUAGE"),
)
"""The tags of OntoNotes, in the order of the hub's data set."""
_EMERGING_OF = {"PER": "person", "ORG": "corporation", "LOC": "location"}
_ONTONOTES_OF = {"PER": "PERSON", "ORG": "ORG", "LOC": "GPE"}
Phrase = tuple[str, str, str]
"""The type of an entity, the words before it, and the entity."""
_EMERGING_MORE: tuple[Phrase, ...] = (
    ("product", "with a", "Galaxy Phone"),
    ("product", "with the new", "Airbook"),
    ("creative-work", "after", "The Long Night"),
    ("creative-work", "after", "Starlight"),
    ("group", "with", "The Blue Notes"),
    ("group", "with", "Northwind"),
    ("location", "from", "New York"),
)
_ONTONOTES_MORE: tuple[Phrase, ...] = (
    ("CARDINAL", "for", "two hundred"),
    ("CARDINAL", "for", "three"),
    ("DATE", "on", "Monday"),
    ("DATE", "in", "early May"),
    ("NORP", "with the", "Italian"),
    ("NORP", "with the", "Social Democrats"),
    ("LAW", "under the", "Trade Act"),
    ("PERCENT", "at", "ten percent"),
    ("ORDINAL", "for the", "second"),
    ("ORDINAL", "for the", "twenty first"),
    ("MONEY", "for", "five dollars"),
    ("WORK_OF_ART", "after", "The Long Night"),
    ("FAC", "at the", "Old Bridge"),
    ("TIME", "before", "noon"),
    ("TIME", "before", "nine o'clock"),
    ("LOC", "near the", "Alps"),
    ("LOC", "near the", "North Sea"),
    ("QUANTITY", "after", "six miles"),
    ("PRODUCT", "with the", "Airbook"),
    ("PRODUCT", "with a", "Galaxy Phone"),
    ("EVENT", "before the", "Winter Games"),
    ("LANGUAGE", "in", "French"),
    ("LANGUAGE", "in", "Old English"),
    ("GPE", "from", "New York"),
)


def wnut(world: World, rng: Random) -> list[dict[str, Any]]:
    """Return the words of a sentence and the places of their tags in EMERGING."""
    words, tags = _entities(world, rng, _EMERGING_OF, _EMERGING_MORE)
    return [{"tokens": words, "ner_tags": [EMERGING.index(tag) for tag in tags]}]


def ontonotes(world: World, rng: Random) -> list[dict[str, Any]]:
    """Return the words of a sentence and the places of their tags in ONTONOTES."""
    words, tags = _entities(world, rng, _ONTONOTES_OF, _ONTONOTES_MORE)
    return [{"tokens": words, "tags": [ONTONOTES.index(tag) for tag in tags]}]


def _entities(
    world: World, rng: Random, names: dict[str, str], more: tuple[Phrase, ...]
) -> tuple[list[str], list[str]]:
    """Return a sentence of CoNLL-2003 with other names for the types of its entities, and for most
    sentences a phrase with one more entity before the full stop."""
    words, numbers = named_entities(world, rng)
    tags = [ENTITIES[number] for number in numbers]
    tags = ["O" if tag == "O" else f"{tag[:2]}{names[tag[2:]]}" for tag in tags]
    if rng.random() < 0.7:
        kind, before, entity = rng.choice(more)
        first, rest = before.split(), entity.split()
        words = [*words[:-1], *first, *rest, words[-1]]
        new = [f"{'I' if number else 'B'}-{kind}" for number in range(len(rest))]
        tags = [*tags[:-1], *["O"] * len(first), *new, tags[-1]]
    return words, tags
