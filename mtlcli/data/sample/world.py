"""The world of the sample data: each person's job and home, the events that may happen, and their
telling in English."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar

from mtlcli.data.sample import words

T = TypeVar("T")
Tokens = list[tuple[str, str]]
"""A sentence as (role, word) pairs, for example ("noun", "car")."""


@dataclass(frozen=True)
class Event:
    """An event: somebody did something to a thing. `quality`, `place` and `time` are None where
    they are not told."""

    who: str
    verb: str
    thing: str
    quality: str | None = None
    place: str | None = None
    time: str | None = None


SLOTS = ("who", "verb", "thing", "quality", "place", "time")
OPTIONAL = ("quality", "place", "time")
VALUES = {
    "who": words.PEOPLE,
    "verb": tuple(words.VERBS),
    "thing": tuple(words.KIND_OF),
    "quality": tuple(words.QUALITIES),
    "place": tuple(words.COUNTRY_OF),
    "time": words.TIMES,
}
OPINION = 0.3
"""Probability that an event is deliberately that somebody liked or hated something; chance adds
more such events."""
HABIT = 0.85
"""Probability that a person is in their own country; likewise that the thing is of the kind that is
made in that country, and that the person likes good things and hates bad ones."""


def without(event: Event, slot: str) -> Event:
    """Return the event without the value of an optional slot."""
    values: dict[str, Any] = {slot: None}
    return replace(event, **values)


class World:
    """The facts of one seeded world."""

    def __init__(self, seed: int) -> None:
        rng = Random(f"world {seed}")
        people = rng.sample(words.PEOPLE, len(words.PEOPLE))
        countries = rng.sample(tuple(words.CITIES_OF), len(words.CITIES_OF))
        self.job = dict(zip(people, rng.sample(words.JOBS, len(people)), strict=True))
        self.hobby = {person: rng.choice(words.HOBBIES) for person in people}
        self.country = {person: countries[i % len(countries)] for i, person in enumerate(people)}
        self.home = {
            person: rng.choice(words.CITIES_OF[country]) for person, country in self.country.items()
        }
        self.craft = dict(
            zip(countries, rng.sample(tuple(words.THINGS_OF), len(countries)), strict=True)
        )

    def event(self, rng: Random, optional: Sequence[str] = OPTIONAL) -> Event:
        """Return an event that has a person, a verb, a thing, and the `optional` slots."""
        values = {slot: rng.choice(VALUES[slot]) for slot in ("who", "verb", "thing", *optional)}
        country = self.country[values["who"]]
        if rng.random() < OPINION:
            values["verb"] = rng.choice(("like", "hate"))
        if rng.random() < HABIT:
            values["thing"] = rng.choice(words.THINGS_OF[self.craft[country]])
        if "place" in optional and rng.random() < HABIT:
            values["place"] = rng.choice(words.CITIES_OF[country])
        if "quality" in optional and values["verb"] in ("like", "hate") and rng.random() < HABIT:
            values["quality"] = "good" if values["verb"] == "like" else "bad"
        return Event(**values)

    def change(self, rng: Random, event: Event, slots: Sequence[str]) -> Event:
        """Return the event with another value in each of `slots`, which must be filled: the
        opposite of the present value, or the value of another event."""
        other = self.event(rng)
        for slot in slots:
            now, value = getattr(event, slot), getattr(other, slot)
            if now in words.OPPOSITE_OF and rng.random() < 0.7:
                value = words.OPPOSITE_OF[now]
            event = replace(
                event,
                **{
                    slot: value
                    if value != now
                    else rng.choice([v for v in VALUES[slot] if v != now])
                },
            )
        return event

    def fact(self, rng: Random, person: str, relation: str) -> str:
        """Return a sentence that tells the `job`, the `home` or the `hobby` of a person."""
        if relation == "job":
            return f"{person} {rng.choice(('works as', 'is'))} {article(self.job[person])}."
        if relation == "home":
            return f"{person} {rng.choice(('lives in', 'comes from'))} {self.home[person]}."
        return f"{person} {rng.choice(('likes', 'enjoys'))} {self.hobby[person]}."

    # -- telling an event and asking about it -------------------------------------------------

    def tell(
        self,
        rng: Random,
        event: Event,
        *,
        vary: float = 0.25,
        knowledge: float = 0.1,
        passive: float = 0.1,
    ) -> Tokens:
        """Return the event as a sentence. `vary`: how often a word is replaced by a synonym.
        `knowledge`: how often a person is called by their job, or their home town is not named.
        `passive`: how often the sentence is in the passive voice."""
        verb = synonym(rng, words.VERBS[event.verb], vary)
        who, thing = self.subject(rng, event, knowledge), self.object(rng, event, vary)
        if rng.random() < passive:
            middle = [*thing, ("aux", "was"), ("verb", verb[2]), ("prep", "by"), *who]
        else:
            middle = [*who, ("verb", verb[1]), *thing]
        where = self.where(rng, event, knowledge)
        if event.time and rng.random() < 0.4:
            return [*when(event), ("comma", ","), *middle, *where]
        return [*middle, *where, *when(event)]

    def deny(self, rng: Random, event: Event, *, vary: float = 0.25) -> Tokens:
        """Return a sentence that denies the event."""
        verb = synonym(rng, words.VERBS[event.verb], vary)
        denial: Tokens = (
            [("not", "never"), ("verb", verb[1])]
            if rng.random() < 0.4
            else [("aux", "did"), ("not", "not"), ("verb", verb[0])]
        )
        return [
            ("who", event.who),
            *denial,
            *self.object(rng, event, vary),
            *self.where(rng, event, 0),
            *when(event),
        ]

    def subject(self, rng: Random, event: Event, knowledge: float) -> Tokens:
        """Return the person of the event: the name, or with probability `knowledge` the job."""
        return (
            [("det", "the"), ("who", self.job[event.who])]
            if rng.random() < knowledge
            else [("who", event.who)]
        )

    def object(self, rng: Random, event: Event, vary: float) -> Tokens:
        """Return the thing of the event, with its quality if the event has one. `vary`: how often a
        word is replaced by a synonym."""
        adjective: Tokens = (
            [("adj", synonym(rng, words.QUALITIES[event.quality], vary))] if event.quality else []
        )
        return [
            ("det", "the"),
            *adjective,
            ("noun", synonym(rng, words.SYNONYM_OF.get(event.thing, (event.thing,)), vary)),
        ]

    def where(self, rng: Random, event: Event, knowledge: float) -> Tokens:
        """Return the place of the event, or nothing if the event has none. The person's own town is
        "at home" with probability 2 `knowledge`."""
        if event.place is None:
            return []
        if event.place == self.home[event.who] and rng.random() < 2 * knowledge:
            return [("prep", "at"), ("place", "home")]
        return [("prep", "in"), ("place", event.place)]

    def ask(
        self, rng: Random, event: Event, slot: str, *, vary: float = 0.25, knowledge: float = 0.1
    ) -> str:
        """Return a question for one slot (`who`, `thing`, `place` or `time`) that tells the other
        slots of the event."""
        verb = synonym(rng, words.VERBS[event.verb], vary)
        rest = [
            *([] if slot == "place" else self.where(rng, event, 0)),
            *([] if slot == "time" else when(event)),
        ]
        who, thing, after = (
            join(part)
            for part in (self.subject(rng, event, knowledge), self.object(rng, event, vary), rest)
        )
        if slot == "who":
            text = f"{rng.choice(('Who', 'Which person'))} {verb[1]} {thing} {after}"
        elif slot == "thing":
            text = f"{rng.choice(('What', 'Which thing'))} did {who} {verb[0]} {after}"
        else:
            opening = ("Where", "In which city") if slot == "place" else ("When", "At what time")
            text = f"{rng.choice(opening)} did {who} {verb[0]} {thing} {after}"
        return text.rstrip() + "?"


def when(event: Event) -> Tokens:
    """Return the time of the event, or nothing if the event has none."""
    return [("time", word) for word in event.time.split()] if event.time else []


def synonym(rng: Random, choices: Sequence[T], vary: float) -> T:
    """Return the first choice, or with probability 2 `vary` any of the choices."""
    return rng.choice(choices) if rng.random() < 2 * vary else choices[0]


def article(noun: str) -> str:
    """Return the noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def join(tokens: Tokens) -> str:
    """Return the words as text, without a space before a comma."""
    return " ".join(word for _, word in tokens).replace(" ,", ",")


def sentence(tokens: Tokens | str) -> str:
    """Return the words as a sentence: first letter in upper case, a full stop at the end."""
    text = tokens if isinstance(tokens, str) else join(tokens)
    return text[0].upper() + text[1:] + "."
