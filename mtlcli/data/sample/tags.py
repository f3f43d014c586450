"""Sentences of the sample world as lists of words with a tag for each: parts of speech, named
entities."""

from __future__ import annotations

from random import Random

from mtlcli.data.sample import words
from mtlcli.data.sample.world import OPTIONAL, Tokens, World

UPOS = (
    *("NOUN", "PUNCT", "ADP", "NUM", "SYM", "SCONJ", "ADJ", "PART", "DET", "CCONJ", "PROPN"),
    *("PRON", "X", "_", "ADV", "INTJ", "VERB", "AUX"),
)
"""The parts of speech of Universal Dependencies, in the order of the hub's data set."""
ENTITIES = (*("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),)
"""The tags of CoNLL-2003, in the order of the hub's data set."""
_POS_OF = {
    "det": "DET",
    "noun": "NOUN",
    "adj": "ADJ",
    "verb": "VERB",
    "aux": "AUX",
    "prep": "ADP",
    "comma": "PUNCT",
    "stop": "PUNCT",
}
_POS_OF_WORD = {"in": "ADP", "at": "ADP", "the": "DET", "not": "PART", "never": "ADV"}


def parts_of_speech(world: World, rng: Random) -> tuple[list[str], list[int]]:
    """Return the words of a sentence, and the places of their parts of speech in UPOS."""
    tokens = _sentence(world, rng)
    return _capital(tokens), [UPOS.index(_pos(role, word)) for role, word in tokens]


def named_entities(world: World, rng: Random) -> tuple[list[str], list[int]]:
    """Return the words of a sentence, and the places of their tags in ENTITIES. People sometimes
    have a surname, and countries stand for their inhabitants (MISC) or firms (ORG)."""
    found: Tokens = []
    tags: list[str] = []
    for role, word in _sentence(world, rng):
        if role == "who" and word in words.PEOPLE:
            name = [word, rng.choice(words.JOBS).capitalize()][: rng.choice((1, 2))]
            found += [(role, part) for part in name]
            tags += ["B-PER", "I-PER"][: len(name)]
        elif role == "place" and word in words.COUNTRY_OF:
            more = rng.random() < 0.4
            found += [(role, word)] + ([("comma", ","), (role, words.COUNTRY_OF[word])] * more)
            tags += ["B-LOC"] + ["O", "B-LOC"] * more
        elif role == "noun" and rng.random() < 0.3:
            firm = [rng.choice(tuple(words.CITIES_OF)), word.capitalize(), "Company"]
            size = rng.choice((2, 3))
            found += [("noun", part) for part in [*firm[:2], *firm[2:]][:size]]
            tags += ["B-ORG", "I-ORG", "I-ORG"][:size]
        else:
            found.append((role, word))
            tags.append("O")
    return _capital(found), [ENTITIES.index(tag) for tag in tags]


def _sentence(world: World, rng: Random) -> Tokens:
    """Return an event, or its denial, with a full stop."""
    event = world.event(rng, rng.sample(OPTIONAL, rng.choice((1, 2, 3))))
    tokens = world.deny(rng, event) if rng.random() < 0.25 else world.tell(rng, event)
    return [*tokens, ("stop", ".")]


def _pos(role: str, word: str) -> str:
    if role == "who":
        return "PROPN" if word in words.PEOPLE else "NOUN"
    if role == "place":
        return "NOUN" if word == "home" else "PROPN"
    return _POS_OF_WORD.get(word) or _POS_OF.get(role, "NOUN")


def _capital(tokens: Tokens) -> list[str]:
    """Return the words, the first with a capital."""
    (_, first), *rest = tokens
    return [first[0].upper() + first[1:], *(word for _, word in rest)]
