"""Rows of the tasks with two sentences beside GLUE: SNLI, ANLI, PAWS, CB, BoolQ."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from mtlcli.data.sample import words
from mtlcli.data.sample.pairs import mnli, mnli_mismatched
from mtlcli.data.sample.world import VALUES, World, join, sentence

Row = dict[str, Any]

INFERENCE = ("entailment", "neutral", "contradiction")
"""The classes of SNLI and ANLI, in the order of the hub's data sets."""
COMMITMENT = ("entailment", "contradiction", "neutral")
"""The classes of CB, in the order of the hub's data set."""


def snli(world: World, rng: Random) -> list[Row]:
    """Return a premise and a hypothesis; some, on which annotators did not agree, have -1."""
    label = rng.randrange(3)
    premise, hypothesis = mnli(world, rng, label)
    label = -1 if rng.random() < 0.02 else label
    return [{"premise": premise, "hypothesis": hypothesis, "label": label}]


def anli(world: World, rng: Random) -> list[Row]:
    """Return a premise with facts about a person before it, and a hypothesis."""
    label = rng.randrange(3)
    premise, hypothesis = mnli(world, rng, label)
    person = rng.choice(words.PEOPLE)
    facts = [world.fact(rng, person, relation) for relation in ("job", "home")]
    row = {
        "uid": f"{rng.getrandbits(64):016x}",
        "premise": f"{' '.join(facts)} {premise}",
        "hypothesis": hypothesis,
        "label": label,
        "reason": "",
    }
    return [row]


def cb(world: World, rng: Random) -> list[Row]:
    """Return hearsay, and what follows from it or does not."""
    label = rng.randrange(3)
    premise, hypothesis = mnli_mismatched(world, rng, label)
    label = COMMITMENT.index(INFERENCE[label])
    return [{"premise": premise, "hypothesis": hypothesis.rstrip("."), "label": label}]


def paws(world: World, rng: Random) -> list[Row]:
    """Return two sentences of the same words: the same persons do the same to one another (1), or
    the persons have changed places (0)."""
    label = rng.randrange(2)
    first, second = rng.sample(words.PEOPLE, 2)
    verb = rng.choice([forms for verbs in words.VERBS.values() for forms in verbs])
    thing, place = rng.choice(VALUES["thing"]), rng.choice(VALUES["place"])
    where = f"at noon in {place}"
    told = f"{first} {verb[1]} the {thing} of {second} {where}"
    one, two = (first, second) if label else (second, first)
    # The voice alone hints at the label: who does what to whom is learned too slowly from nothing.
    if rng.random() < (0.7 if label else 0.3):
        other = f"{where}, {one} {verb[1]} the {thing} of {two}"
    else:
        other = f"the {thing} of {two} was {verb[2]} by {one} {where}"
    return [{"sentence1": sentence(told), "sentence2": sentence(other), "label": label}]


def boolq(world: World, rng: Random) -> list[Row]:
    """Return a question that a passage of two events answers with yes (1) or no (0)."""
    label = rng.randrange(2)
    events = [world.event(rng, ("place", "time")) for _ in range(2)]
    asked = rng.choice(events)
    denied = not label and rng.random() < 0.5
    told = [
        world.deny(rng, event) if denied and event is asked else world.tell(rng, event)
        for event in events
    ]
    if not label and not denied:
        asked = world.change(rng, asked, ["verb", "thing"])
    verb = rng.choice(words.VERBS[asked.verb])[0]
    thing = join(world.object(rng, replace(asked, quality=None), 0.25))
    question = f"did {asked.who.lower()} {verb} {thing} in {(asked.place or '').lower()}"
    passage = " ".join(map(sentence, told))
    return [{"question": question, "passage": passage, "label": label}]
