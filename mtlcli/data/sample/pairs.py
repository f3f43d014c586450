"""Rows of the tasks with two sentences: paraphrase, similarity and entailment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from mtlcli.data.sample import words
from mtlcli.data.sample.world import (
    OPTIONAL,
    SLOTS,
    VALUES,
    Event,
    Tokens,
    World,
    join,
    sentence,
    without,
)


def _event(world: World, rng: Random, number: int = 1) -> Event:
    """Return an event with `number` of its optional slots filled."""
    return world.event(rng, rng.sample(OPTIONAL, number))


def _said(event: Event, slots: Sequence[str] = SLOTS) -> list[str]:
    return [slot for slot in slots if getattr(event, slot) is not None]


def _other(world: World, rng: Random, event: Event, slots: list[str]) -> Event:
    """Return the event with at least two of the slots changed, so that a model trained from scratch
    on one task alone can learn to see the difference."""
    return world.change(rng, event, rng.sample(slots, rng.randint(min(2, len(slots)), len(slots))))


def mrpc(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return two statements. They tell the same event in other words (1), or differ in at least two
    facts, or one denies the other (0)."""
    event = _event(world, rng)
    if not label and rng.random() < 0.3:
        texts = [sentence(world.tell(rng, event)), sentence(world.deny(rng, event))]
        rng.shuffle(texts)
        return tuple(texts)
    other = event if label else _other(world, rng, event, _said(event))
    tell = world.deny if rng.random() < 0.1 else world.tell
    return sentence(tell(rng, event)), sentence(tell(rng, other))


def stsb(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return two statements of four facts each, `label` of which agree."""
    event = _event(world, rng)
    other = world.change(rng, event, rng.sample(_said(event), 4 - label))
    return sentence(world.tell(rng, event)), sentence(world.tell(rng, other))


def qqp(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return two questions: the same one in other words (1), or one for another fact or about
    another event (0)."""
    event = world.event(rng, ())
    slots = ["who", "thing", "place", "time"]
    slot = rng.choice(slots)
    first = world.ask(rng, event, slot)
    if not label:
        different = rng.random()
        if different < 0.65:
            event = _other(world, rng, event, [name for name in _said(event) if name != slot])
        if different > 0.35:
            slot = rng.choice([other for other in slots if other != slot])
    return first, world.ask(rng, event, slot)


def qnli(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return a question and a sentence that answers it (0) or does not (1)."""
    slot = rng.choice(
        ("who", "thing") if (rng.random() < 0.65) != bool(label) else ("place", "time")
    )
    event = world.event(rng, rng.choice(((), ("place",), ("time",), ("place", "time"))))
    if slot in OPTIONAL and not getattr(event, slot):
        event = replace(event, **{slot: getattr(world.event(rng), slot)})
    question = world.ask(rng, replace(event, place=None, time=None), slot)
    if label:
        different = rng.random()
        if slot in OPTIONAL and different < 0.65:
            event = without(event, slot)
        if slot not in OPTIONAL or different > 0.35:
            event = _other(
                world, rng, event, [name for name in ("who", "verb", "thing") if name != slot]
            )
    return question, sentence(world.tell(rng, event))


def _less(rng: Random, event: Event) -> Event:
    """Return the event without one of its filled optional slots."""
    return without(event, rng.choice(_said(event, OPTIONAL)))


def _general(
    world: World, rng: Random, event: Event, words_for: dict[str, str], share: float
) -> str:
    """Return the event as a sentence. With probability `share` it uses the more general words of
    `words_for`."""
    general = words_for if rng.random() < share else {}
    return sentence([(role, general.get(word, word)) for role, word in world.tell(rng, event)])


def _follows(world: World, rng: Random, event: Event) -> str:
    """Return a sentence that the event entails: it leaves out a slot, and may name a kind instead
    of a thing or a country instead of a city."""
    return _general(world, rng, _less(rng, event), {**words.KIND_OF, **words.COUNTRY_OF}, 0.3)


def _contradicts(world: World, rng: Random, event: Event) -> str:
    """Return a sentence that cannot be true if the event is: a denial, or a sentence with the
    opposite verb or quality, or with another place or time."""
    event = _less(rng, event)
    if rng.random() < 0.4:
        return sentence(world.deny(rng, event))
    slot = rng.choice(["verb", *_said(event, OPTIONAL)])
    if slot in ("verb", "quality"):
        return _general(
            world,
            rng,
            replace(event, **{slot: words.OPPOSITE_OF[getattr(event, slot)]}),
            words.KIND_OF,
            0.15,
        )
    return _general(world, rng, world.change(rng, event, [slot]), words.KIND_OF, 0.15)


def _open(world: World, rng: Random, event: Event) -> str:
    """Return a sentence that the event neither entails nor contradicts: it is about another person
    or thing, or tells more than is known."""
    if rng.random() < 0.5:
        slots = rng.choice((["who"], ["thing"], ["who", "thing"]))
        other = without(world.change(rng, event, slots), rng.choice(_said(event, OPTIONAL)))
        # If only the thing changed, to another one of the same kind, naming it by its kind would be
        # entailed after all.
        return _general(
            world, rng, other, words.COUNTRY_OF if slots == ["thing"] else words.KIND_OF, 0.15
        )
    more = replace(
        event,
        **{slot: rng.choice(VALUES[slot]) for slot in OPTIONAL if getattr(event, slot) is None},
    )
    return _general(
        world, rng, without(more, rng.choice(_said(event, OPTIONAL))), words.KIND_OF, 0.15
    )


def _inference(world: World, rng: Random, label: int) -> tuple[Event, Tokens, str]:
    """Return an event, a premise that tells (or sometimes denies) it, and a hypothesis: entailment
    (0), neutral (1), contradiction (2)."""
    if rng.random() < 0.12:
        event = _event(world, rng)
        if label == 1:
            other, say = (
                world.change(rng, event, [rng.choice(("who", "thing"))]),
                rng.choice((world.tell, world.deny)),
            )
        else:
            other, say = event, world.tell if label else world.deny
        return event, world.deny(rng, event), sentence(say(rng, other))
    event = _event(world, rng, 2)
    return event, world.tell(rng, event), (_follows, _open, _contradicts)[label](world, rng, event)


def mnli(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return a premise and a hypothesis: entailment (0), neutral (1), contradiction (2)."""
    _, premise, hypothesis = _inference(world, rng, label)
    return sentence(premise), hypothesis


def mnli_mismatched(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return a pair as `mnli` does, but the premise is hearsay: another genre."""
    _, premise, hypothesis = _inference(world, rng, label)
    return sentence(f"{rng.choice(('I heard that', 'they say that'))} {join(premise)}"), hypothesis


def rte(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return one or two statements and a hypothesis that follows from them (0) or does not (1)."""
    event, premise, hypothesis = _inference(world, rng, label and rng.choice((1, 2)))
    text = sentence(premise)
    if rng.random() < 0.3:
        extra = world.fact(rng, event.who, rng.choice(("job", "home", "hobby")))
        text = f"{text} {extra}" if rng.random() < 0.5 else f"{extra} {text}"
    return text, hypothesis


_HELPERS = ("doctor", "nurse", "lawyer", "teacher", "barber", "cook")
_HELPED = ("patient", "child", "client", "pupil", "guest", "stranger")
_HELP = ("helped", "served", "advised")
_SIZES = (("vehicle", "instrument"), ("garment", "toy"))
Schema = tuple[str, str, tuple[str, ...], tuple[str, ...]]
"""A sentence about {a} and {b}, a reading of its pronoun, and the reasons that fit if the pronoun
means {a} and if it means {b}."""
_NAMED: tuple[Schema, ...] = (
    ("{a} thanked {b} because {she} {why}.", "{x} {why}.", ("was grateful",), ("had helped",)),
    ("{a} called {b} because {she} {why}.", "{x} {why}.", ("needed the {t}",), ("had the {t}",)),
)
_ROLES: tuple[Schema, ...] = (
    (
        "The {a} {help} the {b} because {she} {why}.",
        "The {x} {why}.",
        ("was skilled", "was on duty"),
        ("needed help", "was in trouble"),
    ),
)
_THINGS: tuple[Schema, ...] = (
    (
        "The {a} did not fit into the {b} because it was too {why}.",
        "The {x} was too {why}.",
        ("big", "large"),
        ("small", "little"),
    ),
    (
        "The {a} would not go into the {b} because it was too {why}.",
        "The {x} was too {why}.",
        ("big", "large"),
        ("small", "little"),
    ),
    ("The {a} {harm} the {b} because it was {why}.", "The {x} was {why}.", ("heavy",), ("weak",)),
)


def wnli(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return a sentence with a pronoun, and a reading of the pronoun that is right (1) or wrong
    (0). Most of the sentences need knowledge of the world: who helps whom, and which things are
    larger."""
    text, reading, filled = pronoun(rng, label)
    return text.format(**filled), reading.format(**filled)


def pronoun(rng: Random, label: int) -> tuple[str, str, dict[str, str]]:
    """Return the pattern of a sentence with a pronoun, the pattern of a reading, and what to fill
    in: `a` and `b`, of which the pronoun means one, and `x`, which is that one (label 1) or the
    other (0)."""
    women, style = rng.random() < 0.5, rng.random()
    if style < 0.1:
        schemas: tuple[Schema, ...] = _NAMED
        pair = rng.sample(words.WOMEN if women else words.MEN, 2)
    elif style < 0.6:
        schemas, pair = _ROLES, [rng.choice(_HELPERS), rng.choice(_HELPED)]
    else:
        things = (rng.choice(words.THINGS_OF[rng.choice(kinds)]) for kinds in _SIZES)
        schemas, pair = (
            _THINGS,
            [rng.choice(words.SYNONYM_OF.get(thing, (thing,))) for thing in things],
        )
    text, reading, *reasons = rng.choice(schemas)
    # Make the reason alone hint at the label: a pure exclusive-or of reason and reading is learned
    # too slowly.
    meant = int(rng.random() < (0.6 if label else 0.4))
    filled = {
        "she": "she" if women else "he",
        "help": rng.choice(_HELP),
        "harm": rng.choice(("broke", "damaged", "crushed")),
    }
    filled |= {"a": pair[0], "b": pair[1], "x": pair[meant if label else 1 - meant]}
    filled["why"] = rng.choice(reasons[meant]).format(t=rng.choice(VALUES["thing"]))
    return text, reading, filled
