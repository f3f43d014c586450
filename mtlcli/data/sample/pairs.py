"""Rows of the tasks with two sentences: paraphrase, similarity and entailment."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from mtlcli.data.sample import words
from mtlcli.data.sample.world import VALUES, Event, World, sentence

OPTIONAL = ("quality", "place", "day")


def _event(world: World, rng: Random, optional: int = 2) -> Event:
    """An event that says `optional` of its quality, place and day."""
    return world.event(rng, ("who", "verb", "thing", *rng.sample(OPTIONAL, optional)))


def _said(event: Event, slots: tuple[str, ...] = ("who", "verb", "thing", *OPTIONAL)) -> list[str]:
    return [slot for slot in slots if getattr(event, slot) is not None]


def _change(world: World, rng: Random, event: Event, number: int, slots: list[str]) -> Event:
    for slot in rng.sample(slots, number):
        event = world.differ(rng, event, slot)
    return event


def mrpc(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Two statements: the same event in other words (1), or one that differs in one or two facts (0)."""
    event = _event(world, rng)
    other = event if label else _change(world, rng, event, rng.choice((1, 2)), _said(event))
    return sentence(world.tell(rng, event)), sentence(world.tell(rng, other))


def stsb(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Two statements of five facts each, `label` of which agree."""
    event = _event(world, rng)
    other = _change(world, rng, event, 5 - label, _said(event))
    return sentence(world.tell(rng, event)), sentence(world.tell(rng, other))


def qqp(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Two questions: the same one in other words (1), or one for another fact or about another event (0)."""
    event = _event(world, rng, 1)
    slots = ["who", "thing", "place", "day"]
    slot = rng.choice(slots)
    first = world.ask(rng, event, slot)
    if not label:
        if rng.random() < 0.4:
            slot = rng.choice([other for other in slots if other != slot])
        else:
            given = [name for name in _said(event) if name != slot and not (slot == "thing" and name == "quality")]
            event = _change(world, rng, event, rng.choice((1, 2)), given)
    return first, world.ask(rng, event, slot)


def qnli(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """A question and a sentence that answers it (0), or one that does not (1)."""
    if rng.random() < 0.3:
        person, relation = rng.choice(words.PEOPLE), rng.choice(("job", "home", "hobby"))
        question = world.ask_fact(rng, person, relation)
        if label and rng.random() < 0.5:
            person = rng.choice([other for other in words.PEOPLE if other != person])
        elif label:
            relation = rng.choice([other for other in ("job", "home", "hobby") if other != relation])
        return question, world.fact(rng, person, relation)[:-1] + sentence(world.tell(rng, replace(_event(world, rng), who=person)))
    slot = rng.choice(("who", "thing", "place", "day"))
    event = world.event(rng, ("who", "verb", "thing", "place", "day"))
    asked = replace(event, place=None, day=None) if rng.random() < 0.6 else replace(event, **{rng.choice(("place", "day")): None})
    question = world.ask(rng, asked, slot)
    if label:
        if slot in ("place", "day") and rng.random() < 0.5:
            event = replace(event, **{slot: None})
        else:
            event = _change(world, rng, event, rng.choice((1, 2)), [name for name in ("who", "verb", "thing") if name != slot])
    return question, sentence(world.tell(rng, event))


def _follows(world: World, rng: Random, event: Event) -> str:
    """A sentence that the event entails: less is said, or a kind or a country instead of a thing or a city."""
    for slot in rng.sample(OPTIONAL, rng.choice((1, 2))):
        event = replace(event, **{slot: None})
    tokens = world.tell(rng, event)
    if rng.random() < 0.35:
        kind = words.KIND[event.thing]
        noun = next(i for i, (role, _) in enumerate(tokens) if role == "noun")
        tokens[noun] = ("noun", kind)
        if tokens[noun - 1][0] == "det":
            tokens[noun - 1] = ("det", "an" if kind[0] in "aeiou" else "a")
    tokens = [("place", words.COUNTRY[word]) if role == "place" and word in words.COUNTRY and rng.random() < 0.35 else (role, word)
              for role, word in tokens]
    return sentence(tokens)


def _contradicts(world: World, rng: Random, event: Event) -> str:
    """A sentence that cannot be true of the event: denied, or its quality, place or day replaced."""
    kept = rng.choice(_said(event, OPTIONAL))
    others = {slot: None for slot in OPTIONAL if slot != kept and rng.random() < 0.7}
    if rng.random() < 0.4:
        return sentence(world.deny(rng, replace(event, **others)))
    if kept == "quality" and event.quality:
        event = replace(event, quality=words.OPPOSITE[event.quality])
    else:
        event = world.differ(rng, event, kept)
    return sentence(world.tell(rng, replace(event, **others)))


def _open(world: World, rng: Random, event: Event) -> str:
    """A sentence that the event leaves open: somebody else did it, with another thing, or more is said than is known."""
    unsaid = [slot for slot in OPTIONAL if getattr(event, slot) is None]
    if unsaid and rng.random() < 0.5:
        said = _said(event, OPTIONAL)
        event = replace(event, **{slot: None for slot in said if rng.random() < 0.7})
        return sentence(world.tell(rng, replace(event, **{slot: rng.choice(VALUES[slot]) for slot in unsaid[:1]})))
    event = _change(world, rng, event, rng.choice((1, 2)), ["who", "verb", "thing"])
    return sentence(world.tell(rng, replace(event, **{slot: None for slot in OPTIONAL if rng.random() < 0.5})))


def mnli(world: World, rng: Random, label: int, *, genre: str = "") -> tuple[str, ...]:
    """A premise and a hypothesis: entailment (0), neutral (1), contradiction (2)."""
    event = _event(world, rng)
    premise = world.tell(rng, event)
    hypothesis = (_follows, _open, _contradicts)[label](world, rng, event)
    if genre:
        return f"{genre} {' '.join(word for _, word in premise).replace(' ,', ',')}.", hypothesis
    return sentence(premise), hypothesis


def mnli_mismatched(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """As mnli, from another genre: hearsay."""
    return mnli(world, rng, label, genre=rng.choice(("I heard that", "They say that")))


def rte(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """One or two statements and a hypothesis that follows from them (0) or does not (1)."""
    event = _event(world, rng)
    text = sentence(world.tell(rng, event))
    if label:
        hypothesis = rng.choice((_open, _contradicts))(world, rng, event)
    else:
        hypothesis = _follows(world, rng, event)
    if rng.random() < 0.5:
        extra = world.fact(rng, event.who, rng.choice(("job", "home", "hobby")))
        text = f"{text} {extra}" if rng.random() < 0.5 else f"{extra} {text}"
    return text, hypothesis


_PEOPLE_SCHEMAS = (
    ("{a} thanked {b} because {she} had helped.", "{x} had helped.", 1),
    ("{a} thanked {b} because {she} was grateful.", "{x} was grateful.", 0),
    ("{a} gave the {t} to {b} because {she} wanted it.", "{x} wanted the {t}.", 1),
    ("{a} gave the {t} to {b} because {she} did not need it.", "{x} did not need the {t}.", 0),
    ("{a} bought the {t} from {b} because {she} needed money.", "{x} needed money.", 1),
    ("{a} bought the {t} from {b} because {she} wanted it.", "{x} wanted the {t}.", 0),
    ("{a} called {b} because {she} had the {t}.", "{x} had the {t}.", 1),
    ("{a} called {b} because {she} needed the {t}.", "{x} needed the {t}.", 0),
)
_THING_SCHEMAS = (
    ("The {a} did not fit into the {b} because it was too {big}.", "The {x} was too {big}.", 0),
    ("The {a} did not fit into the {b} because it was too {small}.", "The {x} was too {small}.", 1),
    ("The {a} broke the {b} because it was heavy.", "The {x} was heavy.", 0),
    ("The {a} broke the {b} because it was weak.", "The {x} was weak.", 1),
)


def wnli(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """A sentence with a pronoun and a reading of the pronoun that is right (1) or wrong (0)."""
    words_for = {size: rng.choice(words.QUALITIES[size]) for size in ("big", "small")}
    if rng.random() < 0.6:
        women = rng.random() < 0.5
        text, reading, meant = rng.choice(_PEOPLE_SCHEMAS)
        pair = rng.sample(words.WOMEN if women else words.MEN, 2)
        filled = {"she": "she" if women else "he", "t": rng.choice(words.THINGS)}
    else:
        text, reading, meant = rng.choice(_THING_SCHEMAS)
        pair = rng.sample(words.THINGS, 2)
        filled = {}
    chosen = pair[meant] if label else pair[1 - meant]
    filled |= {"a": pair[0], "b": pair[1], "x": chosen, **words_for}
    return text.format(**filled), reading.format(**filled)
