"""Rows of the tasks of SuperGLUE that mark words or ask about a text: MultiRC, ReCoRD, WiC, WSC."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from mtlcli.data.sample import words
from mtlcli.data.sample.pairs import pronoun
from mtlcli.data.sample.world import VALUES, Event, World, sentence

Row = dict[str, Any]
SLOTS = ("who", "thing", "place", "time")


def _events(rng: Random) -> list[Event]:
    """Return two events that have nothing in common."""
    people, things, verbs, places, times = (
        rng.sample(VALUES[slot], 2) for slot in ("who", "thing", "verb", "place", "time")
    )
    return [Event(people[i], verbs[i], things[i], place=places[i], time=times[i]) for i in range(2)]


def multirc(world: World, rng: Random) -> list[Row]:
    """Return two questions on a paragraph with two to four answers each, of which one or two are
    right. Many wrong answers are of another kind than what is asked for, so that a small model
    finds a beginning."""
    events = _events(rng)
    paragraph = " ".join(sentence(world.tell(rng, event, knowledge=0)) for event in events)
    number = rng.randrange(2**31)
    rows = []
    for place, event in enumerate(events):
        slot = rng.choice(SLOTS)
        value = getattr(event, slot)
        ways = _ways(world, slot, value)
        right = ways[:1] if rng.random() < 0.7 else ways
        told = getattr(events[1 - place], slot)
        absent = [other for other in VALUES[slot] if other not in (value, told)]
        kind = rng.choice([other for other in SLOTS if other != slot])
        wrong = [rng.choice(absent) if rng.random() < 0.4 else rng.choice(VALUES[kind])]
        if rng.random() < 0.3:
            wrong.append(rng.choice(_ways(world, slot, told)))
        answers = [(text, 1) for text in right]
        answers += [(text, 0) for text in dict.fromkeys(wrong) if text not in ways]
        rng.shuffle(answers)
        question = world.ask(rng, Event(event.who, event.verb, event.thing), slot, knowledge=0)
        rows += [
            {
                "paragraph": paragraph,
                "question": question,
                "answer": text,
                "idx": {"paragraph": number, "question": place, "answer": index},
                "label": label,
            }
            for index, (text, label) in enumerate(answers)
        ]
    return rows


def _ways(world: World, slot: str, value: str) -> list[str]:
    """Return the ways to answer a question: the value, and a person's job, a thing's kind, or a
    city's country."""
    if slot == "who":
        return [value, f"the {world.job[value]}"]
    if slot == "thing":
        return [f"the {value}", f"a {words.KIND_OF[value]}"]
    return [value] if slot == "time" else [value, words.COUNTRY_OF[value]]


def record(world: World, rng: Random) -> list[Row]:
    """Return a query that tells one of two events of a passage again, without its person or its
    place."""
    events = _events(rng)
    told = [sentence(world.tell(rng, event, knowledge=0)) for event in events]
    passage = f"{told[0]} {told[1]}\n@highlight\n{rng.choice(told)[:-1]}"
    event, slot = rng.choice(events), rng.choice(("who", "place"))
    answer = getattr(event, slot)
    spans = [
        (name, found.start())
        for each in events
        for name in (each.who, each.place or "")
        for found in re.finditer(rf"\b{name}\b", passage)
    ]
    again = sentence(world.tell(rng, event, knowledge=0, passive=0.5))
    return [
        {
            "passage": passage,
            "query": again.replace(answer, "@placeholder"),
            "entities": sorted({name for name, _ in spans}),
            "entity_spans": {
                "text": [name for name, _ in spans],
                "start": [start for _, start in spans],
                "end": [start + len(name) for name, start in spans],
            },
            "answers": [answer],
            "idx": {"passage": rng.randrange(2**31), "query": rng.randrange(2**31)},
        }
    ]


_SENSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ball": (
        ("{who} {did} the {good} ball in {city}", "the {good} ball rolled under the {thing}"),
        (
            "{who} danced at the {good} ball in {city}",
            "the prince gave the {good} ball at midnight",
        ),
    ),
    "drum": (
        ("{who} played the {good} drum in {city}", "the drum and the {thing} were {good}"),
        ("{who} filled the {good} drum with oil in {city}", "a drum of oil stood by the {thing}"),
    ),
    "coat": (
        ("{who} wore the {good} coat in {city}", "the {good} coat hung beside the {thing}"),
        (
            "{who} gave the {thing} the {good} coat of paint",
            "the coat of paint in {city} was {good}",
        ),
    ),
    "play": (
        ("{who} saw the {good} play in {city}", "the actors of the play {did} the {thing}"),
        ("{who} likes to play chess in {city}", "children play with the {good} {thing}"),
    ),
    "cook": (
        ("{who} is the {good} cook in {city}", "the cook {did} the {good} {thing}"),
        ("{who} had to cook the {good} meal in {city}", "you can cook rice near the {thing}"),
    ),
}
"""Word -> sentences for each of its two senses."""


def wic(world: World, rng: Random) -> list[Row]:
    """Return two sentences with a word in the same sense (1) or in two (0)."""
    label = rng.randrange(2)
    word, senses = rng.choice(tuple(_SENSES.items()))
    first = rng.randrange(2)
    told = []
    for sense in (first, first if label else 1 - first):
        text = rng.choice(senses[sense]).format(
            who=rng.choice(words.PEOPLE),
            did=rng.choice(words.VERBS[rng.choice(VALUES["verb"])])[1],
            good=rng.choice(rng.choice(tuple(words.QUALITIES.values()))),
            city=rng.choice(VALUES["place"]),
            thing=rng.choice(VALUES["thing"]),
        )
        told.append(sentence(text))
    places = []
    for text in told:
        found = re.search(rf"\b{word}\b", text)
        assert found, f"'{text}' lacks the word {word}"
        places.append(found)
    row: Row = {"word": word, "sentence1": told[0], "sentence2": told[1]}
    row |= {f"start{number}": found.start() for number, found in enumerate(places, 1)}
    row |= {f"end{number}": found.end() for number, found in enumerate(places, 1)}
    return [row | {"label": label}]


def wsc(world: World, rng: Random) -> list[Row]:
    """Return a sentence with a name or noun that its pronoun means (1) or does not (0)."""
    label = rng.randrange(2)
    text, _, filled = pronoun(rng, label)
    told, name = text.format(**filled), filled["x"]
    name = name if name in words.PEOPLE else f"the {name}"
    parts = told.split(" ")
    found = next(part for part in parts if part in ("he", "she", "it"))
    first = [part.lower() for part in parts].index(name.split(" ")[-1].lower())
    return [
        {
            "text": told,
            "span1_index": first - name.count(" "),
            "span2_index": parts.index(found),
            "span1_text": told[told.lower().index(name.lower()) :][: len(name)],
            "span2_text": found,
            "label": label,
        }
    ]
