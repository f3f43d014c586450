"""Rows of swag, copa, race and ms_marco: what happens next, what is cause or effect, what a
paragraph says, which passage answers a question."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from mtlcli.data.sample import words
from mtlcli.data.sample.world import VALUES, Event, World, join, sentence, synonym

NEXT = {
    "like": "buy",
    "buy": "break",
    "break": "fix",
    "fix": "sell",
    "hate": "lose",
    "lose": "find",
    "find": "like",
    "sell": "hate",
}
"""What people of this world do to a thing after something else."""
BEFORE = {after: before for before, after in NEXT.items()}
LETTERS = "ABCD"


def swag(world: World, rng: Random) -> dict[str, Any]:
    """Return a row: after an event, its person does the next thing to the same thing. Wrong endings
    have another verb, another thing, or both."""
    event = world.event(rng, ("place", "time"))
    verb, thing = NEXT[event.verb], event.thing
    other = rng.choice([name for name in VALUES["thing"] if name != thing])
    wrong = rng.sample([name for name in NEXT if name != verb], 2)
    endings = [(verb, thing), (wrong[0], thing), (verb, other), (wrong[1], other)]
    order = rng.sample(range(4), 4)
    told = [_ending(world, rng, replace(event, verb=do, thing=to)) for do, to in endings]
    start = f"Then {event.who}"
    return {
        "video-id": "sample",
        "fold-ind": str(rng.randrange(20_000)),
        "startphrase": start,
        "sent1": sentence(world.tell(rng, event, knowledge=0)),
        "sent2": start,
        "gold-source": "gold",
        **{f"ending{place}": told[number] for place, number in enumerate(order)},
        "label": order.index(0),
    }


def _ending(world: World, rng: Random, event: Event) -> str:
    verb = synonym(rng, words.VERBS[event.verb], 0.25)[1]
    return f"{verb} {join(world.object(rng, event, 0.25))}."


def copa(world: World, rng: Random) -> dict[str, Any]:
    """Return a row: the cause of an event is what comes before it, the effect what comes next. The
    wrong choice has another verb."""
    event = world.event(rng, ("place", rng.choice(("quality", "time"))))
    question = rng.choice(("cause", "effect"))
    right = (BEFORE if question == "cause" else NEXT)[event.verb]
    wrong = rng.choice([verb for verb in NEXT if verb not in (right, event.verb)])
    label = rng.randrange(2)
    told = [
        f"{event.who} {_ending(world, rng, replace(event, verb=verb, quality=None))}"
        for verb in ((right, wrong) if label == 0 else (wrong, right))
    ]
    return {
        "premise": sentence(world.tell(rng, event, knowledge=0)),
        "choice1": told[0],
        "choice2": told[1],
        "question": question,
        "label": label,
    }


def race(world: World, rng: Random) -> dict[str, Any]:
    """Return a row: a question on one of two events, with four answers of the same kind, one of
    which the other event may suggest."""
    people, things = rng.sample(words.PEOPLE, 2), rng.sample(VALUES["thing"], 2)
    events = [
        Event(
            people[number],
            rng.choice(VALUES["verb"]),
            things[number],
            None,
            rng.choice(VALUES["place"]),
            rng.choice(VALUES["time"]),
        )
        for number in range(2)
    ]
    event, slot = rng.choice(events), rng.choice(("who", "thing", "place", "time"))
    right = getattr(event, slot)
    wrong = rng.sample([value for value in VALUES[slot] if value != right], 3)
    options = rng.sample([right, *wrong], 4)
    asked = replace(event, place=None, time=None)
    return {
        "example_id": f"sample{rng.randrange(10_000)}.txt",
        "article": " ".join(sentence(world.tell(rng, each, knowledge=0)) for each in events),
        "answer": LETTERS[options.index(right)],
        "question": world.ask(rng, asked, slot, knowledge=0),
        "options": options,
    }


def ms_marco(world: World, rng: Random) -> dict[str, Any]:
    """Return a row: a question on an event, and passages of which one tells the event. The others
    differ from it in the thing, in the person, or in both and more."""
    event = world.event(rng, ("place", "time"))
    slot = rng.choice(("place", "time"))
    asked = replace(event, place=None, time=None)
    others = [
        world.change(rng, event, slots)
        for slots in (("thing",), ("who",), ("who", "thing"), ("verb", "thing"))
    ]
    order = rng.sample(range(5), 5)
    told = [sentence(world.tell(rng, each, knowledge=0)) for each in (event, *others)]
    return {
        "answers": [getattr(event, slot)],
        "passages": {
            "is_selected": [int(number == 0) for number in order],
            "passage_text": [told[number] for number in order],
            "url": [f"https://example.org/{number}" for number in range(5)],
        },
        "query": world.ask(rng, asked, slot, knowledge=0),
        "query_type": "LOCATION" if slot == "place" else "NUMERIC",
    }
