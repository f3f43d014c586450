"""Rows of semeval2010_task8 and tacred: a sentence with two entities and the relation between
them."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from mtlcli.data.sample import words
from mtlcli.data.sample.world import OPTIONAL, VALUES, World, sentence

_KINDS = (
    *("Cause-Effect", "Component-Whole", "Content-Container", "Entity-Destination"),
    *("Entity-Origin", "Instrument-Agency", "Member-Collection", "Message-Topic"),
    "Product-Producer",
)
RELATIONS = (
    *(f"{kind}({direction})" for kind in _KINDS for direction in ("e1,e2", "e2,e1")),
    "Other",
)
"""The classes of SemEval-2010 task 8, in the order of the hub's data set."""
_TOLD = {
    "Product-Producer(e1,e2)": "the {thing} was made by the {job}",
    "Product-Producer(e2,e1)": "the {job} made the {thing}",
    "Instrument-Agency(e1,e2)": "the {thing} was used by the {job}",
    "Instrument-Agency(e2,e1)": "the {job} worked with the {thing}",
    "Entity-Destination(e1,e2)": "the {thing} was sent to {city}",
    "Entity-Origin(e1,e2)": "the {thing} came from {city}",
    "Content-Container(e1,e2)": "the {thing} lay in the {box}",
    "Content-Container(e2,e1)": "the {box} held the {thing}",
    "Message-Topic(e1,e2)": "the {work} is about the {thing}",
    "Other": "the {thing} stood near the {box}",
}
_BOXES = ("box", "bag", "basket", "case")
TACRED = {
    "per:title": "{who} is the {job}",
    "per:cities_of_residence": "{who} lives in {city}",
    "per:origin": "{who} comes from {country}",
    "no_relation": "{who} {verb} the {thing} in {city}",
}
"""The relations of tacred's table -> how a sentence tells of them."""
_NAMED = re.compile(r"{(\w+)}")


def semeval(world: World, rng: Random) -> dict[str, Any]:
    """Return a row: two things, people or towns, marked in a sentence behind another event."""
    relation = rng.choice(tuple(_TOLD))
    told = _TOLD[relation]
    number = 0

    def mark(match: re.Match[str]) -> str:
        nonlocal number
        number += 1
        return f"<e{number}>{_value(world, rng, match[1])}</e{number}>"

    event = world.event(rng, rng.sample(OPTIONAL, 1))
    before = sentence(world.tell(rng, event))[:-1]
    text = f"{before}, and {_NAMED.sub(mark, told)}."
    return {"sentence": text, "relation": RELATIONS.index(relation)}


def tacred(world: World, rng: Random) -> dict[str, Any]:
    """Return a row: the words of a sentence, a person as the subject, and the object."""
    relation = rng.choice(tuple(TACRED))
    event = world.event(rng, rng.sample(OPTIONAL, 1))
    tokens = [*(word for _, word in world.tell(rng, event)), ","]
    places = []
    for part in TACRED[relation].split():
        name = _NAMED.fullmatch(part)
        if name and name[1] not in ("verb", "thing"):
            places.append(len(tokens))
        tokens.append(_value(world, rng, name[1]) if name else part)
    subject, other = places[0], places[-1]
    return {
        "relation": relation,
        "token": [*tokens, "."],
        "subj_start": subject,
        "subj_end": subject,
        "obj_start": other,
        "obj_end": other,
        "subj_type": "PERSON",
        "obj_type": {"per:title": "TITLE", "per:origin": "COUNTRY"}.get(relation, "CITY"),
    }


def _value(world: World, rng: Random, kind: str) -> str:
    """Return a word of a kind that the sentences name."""
    if kind == "verb":
        return rng.choice([form[1] for forms in words.VERBS.values() for form in forms])
    choices = {
        "thing": VALUES["thing"],
        "job": words.JOBS,
        "city": VALUES["place"],
        "country": tuple(words.CITIES_OF),
        "box": _BOXES,
        "work": words.WORKS,
        "who": words.PEOPLE,
    }
    return rng.choice(choices[kind])
