"""Rows of squad and squad_v2: a paragraph about a few people, and a question whose answer is a span
of the paragraph."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from random import Random
from typing import Any

from mtlcli.data.sample import words
from mtlcli.data.sample.world import VALUES, Event, World, sentence, without

ASKED = ("who", "thing", "place", "time")


def paragraph(
    world: World, rng: Random, *, unanswerable: float, questions: int = 3
) -> list[dict[str, Any]]:
    """Return the rows for one paragraph about two events. A share `unanswerable` of its questions
    asks for something that the paragraph does not tell."""
    people, things, verbs = (
        rng.sample(words.PEOPLE, 3),
        rng.sample(VALUES["thing"], 3),
        rng.sample(VALUES["verb"], 3),
    )
    places, times = rng.sample(VALUES["place"], 2), rng.sample(VALUES["time"], 2)
    events = [Event(people[i], verbs[i], things[i], None, places[i], times[i]) for i in range(2)]
    first = rng.choice(("place", "time"))
    unsaid = first if rng.random() < (0.8 if unanswerable else 0.3) else None
    second = unsaid or ("time" if first == "place" else "place")
    events = [without(events[0], first), without(events[1], second)]
    sentences = [sentence(world.tell(rng, event, knowledge=0)) for event in events]
    context = " ".join(sentences)
    rows = []
    for _ in range(questions):
        number = rng.randrange(2)
        event = events[number]
        asked = replace(event, place=None, time=None) if rng.random() < 0.5 else event
        slot = rng.choice([slot for slot in ASKED if getattr(event, slot) is not None])
        text: list[str] = []
        start: list[int] = []
        if rng.random() >= unanswerable:
            answer, within = _answer(sentences[number], event, slot)
            text, start = [answer], [sum(len(before) + 1 for before in sentences[:number]) + within]
        elif unsaid and rng.random() < 0.9:
            slot = unsaid
        elif slot == "who" or (slot != "thing" and rng.random() < 0.5):
            asked = replace(asked, thing=things[2])
        else:
            asked = replace(asked, who=people[2])
        question = world.ask(rng, asked, slot, knowledge=0)
        name = hashlib.sha256(f"{context} {question}".encode()).hexdigest()[:24]
        rows.append(
            {
                "id": name,
                "title": people[0],
                "context": context,
                "question": question,
                "answers": {"text": text, "answer_start": start},
            }
        )
    return rows


def _answer(text: str, event: Event, slot: str) -> tuple[str, int]:
    """Return the answer as the sentence has it, and the position in the sentence where it
    starts."""
    value = getattr(event, slot)
    # Whole words only: "car" also occurs in "Oscar".
    found = re.search(
        rf"\b({'|'.join(words.SYNONYM_OF.get(value, (value,)))})\b", text, re.IGNORECASE
    )
    assert found, f"'{text}' does not say {value}"
    return found.group(), found.start()
