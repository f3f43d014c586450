"""Rows of squad and squad_v2: a paragraph about a few people, and a question whose answer is a span of it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from random import Random
from typing import Any

from mtlcli.data.sample import words
from mtlcli.data.sample.world import VALUES, Event, World, sentence

ASKED = ("who", "thing", "place", "time")


def paragraph(world: World, rng: Random, *, unanswerable: float, questions: int = 3) -> list[dict[str, Any]]:
    """Rows for one paragraph; a share `unanswerable` of its questions is about something that it does not say."""
    people, things, verbs = rng.sample(words.PEOPLE, 4), rng.sample(VALUES["thing"], 4), rng.sample(VALUES["verb"], 4)
    places, times = rng.sample(VALUES["place"], 4), rng.sample(VALUES["time"], 4)
    events = [Event(*facts) for facts in zip(people, verbs, things, [None] * 4, places, times, strict=True)]
    events = [replace(event, **{rng.choice(("place", "time")): None}) for event in events]
    told, absent = events[:3], events[3]
    sentences = [sentence(world.tell(rng, event, knowledge=0, passive=0.1)) for event in told]
    context = " ".join(sentences)
    rows = []
    for _ in range(questions):
        number = rng.randrange(3)
        event = told[number]
        slot = rng.choice([slot for slot in ASKED if getattr(event, slot) is not None])
        if rng.random() < unanswerable:
            changed = rng.choice([name for name in ("who", "thing") if name != slot])
            text: list[str] = []
            start: list[int] = []
            question = world.ask(rng, replace(_asked(event), **{changed: getattr(absent, changed)}), slot, knowledge=0)
        else:
            question = world.ask(rng, _asked(event), slot, knowledge=0)
            answer, within = _answer(sentences[number], event, slot)
            text, start = [answer], [sum(len(before) + 1 for before in sentences[:number]) + within]
        name = hashlib.sha256(f"{context} {question}".encode()).hexdigest()[:24]
        rows.append(
            {"id": name, "title": people[0], "context": context, "question": question, "answers": {"text": text, "answer_start": start}}
        )
    return rows


def _asked(event: Event) -> Event:
    return replace(event, place=None, time=None)


def _answer(told: str, event: Event, slot: str) -> tuple[str, int]:
    """The answer as it stands in the sentence, and where it starts there."""
    value = getattr(event, slot)
    spoken = next(name for name in words.SYNONYM_OF.get(value, (value,)) if name.lower() in told.lower())
    start = told.lower().index(spoken.lower())
    return told[start : start + len(spoken)], start
