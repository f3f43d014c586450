"""The world of the sample data: who works as what and lives where, what may happen, and how it is said in English."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from mtlcli.data.sample import words

Tokens = list[tuple[str, str]]
"""A sentence as (role, word) pairs, for example ("noun", "car")."""


@dataclass(frozen=True)
class Event:
    """Somebody did something to a thing; `quality`, `place` and `day` may be left unsaid (None)."""

    who: str
    verb: str
    thing: str
    quality: str | None = None
    place: str | None = None
    day: str | None = None


SLOTS = ("who", "verb", "thing", "quality", "place", "day")
VALUES = {
    "who": words.PEOPLE,
    "verb": tuple(words.VERBS),
    "thing": words.THINGS,
    "quality": tuple(words.QUALITIES),
    "place": words.CITIES,
    "day": words.DAYS,
}


class World:
    """The facts of one seeded world."""

    def __init__(self, seed: int) -> None:
        rng = Random(f"world {seed}")
        self.job = dict(zip(words.PEOPLE, rng.sample(words.JOBS, len(words.PEOPLE)), strict=True))
        self.home = {person: rng.choice(words.CITIES) for person in words.PEOPLE}
        self.hobby = {person: rng.choice(words.HOBBIES) for person in words.PEOPLE}

    def event(self, rng: Random, present: tuple[str, ...] = SLOTS) -> Event:
        """A random event that says the slots named in `present`."""
        return Event(**{slot: rng.choice(VALUES[slot]) for slot in present})

    def differ(self, rng: Random, event: Event, slot: str) -> Event:
        """The event with another value in one slot that it says."""
        now = getattr(event, slot)
        return replace(event, **{slot: rng.choice([value for value in VALUES[slot] if value != now])})

    def fact(self, rng: Random, person: str, relation: str) -> str:
        """A sentence that tells the `job`, the `home` or the `hobby` of a person."""
        if relation == "job":
            return f"{person} {rng.choice(('works as', 'is'))} {article(self.job[person])}."
        if relation == "home":
            return f"{person} {rng.choice(('lives in', 'comes from'))} {self.home[person]}."
        return f"{person} {rng.choice(('likes', 'enjoys'))} {self.hobby[person]}."

    # -- how an event is said ---------------------------------------------------------------------------------------

    def tell(self, rng: Random, event: Event, *, vary: float = 0.4, knowledge: float = 0.15, passive: float = 0.2) -> Tokens:
        """The event as a sentence. `vary`: how often a word is replaced by a synonym; `knowledge`: how often a person is named by
        their job, or their home town is not named."""
        verb = synonym(rng, words.VERBS[event.verb], vary)
        who = self.subject(rng, event.who, knowledge)
        thing = self.object(rng, event, vary)
        where = self.where(rng, event, knowledge)
        when: Tokens = [] if event.day is None else [("prep", "on"), ("day", event.day)]
        if rng.random() < passive:
            middle = [*thing, ("aux", "was"), ("verb", verb[3]), ("prep", "by"), *who]
        else:
            middle = [*who, ("verb", verb[2]), *thing]
        if when and rng.random() < 0.4:
            return [*when, ("comma", ","), *middle, *where]
        return [*middle, *where, *when]

    def deny(self, rng: Random, event: Event, *, vary: float = 0.4) -> Tokens:
        """The event as a sentence that says it did not happen."""
        verb = synonym(rng, words.VERBS[event.verb], vary)
        when: Tokens = [] if event.day is None else [("prep", "on"), ("day", event.day)]
        refusal: Tokens = [("aux", "did"), ("not", "not"), ("verb", verb[0])] if rng.random() < 0.6 else [("not", "never"), ("verb", verb[2])]
        return [("who", event.who), *refusal, *self.object(rng, event, vary), *self.where(rng, event, 0), *when]

    def subject(self, rng: Random, person: str, knowledge: float) -> Tokens:
        if rng.random() >= knowledge:
            return [("who", person)]
        return [("det", "the"), ("who", self.job[person])]

    def object(self, rng: Random, event: Event, vary: float) -> Tokens:
        adjective = synonym(rng, words.QUALITIES[event.quality], vary) if event.quality else None
        noun = words.SAME_THING.get(event.thing, event.thing) if rng.random() < vary else event.thing
        determiner = article(adjective or noun).split()[0]
        return [("det", determiner), *([("adj", adjective)] if adjective else []), ("noun", noun)]

    def where(self, rng: Random, event: Event, knowledge: float) -> Tokens:
        if event.place is None:
            return []
        if event.place == self.home.get(event.who) and rng.random() < knowledge * 3:
            return [("prep", "at"), ("place", "home")]
        return [("prep", "in"), ("place", event.place)]

    # -- how an event is asked about ---------------------------------------------------------------------------------

    def ask(self, rng: Random, event: Event, slot: str, *, vary: float = 0.4, knowledge: float = 0.15) -> str:
        """A question for one slot (`who`, `thing`, `place` or `day`) that gives all the other slots that the event says."""
        verb = synonym(rng, words.VERBS[event.verb], vary)
        rest = [] if slot == "place" else self.where(rng, event, 0)
        if event.day is not None and slot != "day":
            rest = [*rest, ("prep", "on"), ("day", event.day)]
        who, thing, after = (join(part) for part in (self.subject(rng, event.who, knowledge), self.object(rng, event, vary), rest))
        if slot == "who":
            return f"{rng.choice(('Who', 'Which person'))} {verb[2]} {thing} {after}".rstrip() + "?"
        if slot == "thing":
            return f"{rng.choice(('What', 'Which thing'))} did {who} {verb[0]} {after}".rstrip() + "?"
        opening = ("Where", "In which city") if slot == "place" else ("When", "On which day")
        return f"{rng.choice(opening)} did {who} {verb[0]} {thing} {after}".rstrip() + "?"

    def ask_fact(self, rng: Random, person: str, relation: str) -> str:
        """A question for the `job`, the `home` or the `hobby` of a person."""
        if relation == "job":
            return rng.choice((f"What is the job of {person}?", f"What does {person} work as?"))
        if relation == "home":
            return rng.choice((f"Where does {person} live?", f"In which city does {person} live?"))
        return rng.choice((f"What does {person} like?", f"What does {person} enjoy?"))


def synonym(rng: Random, choices: tuple, vary: float):  # noqa: ANN201
    """The first choice, or with probability `vary` the last one."""
    return choices[-1] if rng.random() < vary else choices[0]


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def join(tokens: Tokens) -> str:
    """The words as text, a comma without a space before it."""
    return " ".join(word for _, word in tokens).replace(" ,", ",")


def sentence(tokens: Tokens | str) -> str:
    """The words as a sentence: first letter in upper case, a full stop at the end."""
    text = tokens if isinstance(tokens, str) else join(tokens)
    return text[0].upper() + text[1:] + "."
