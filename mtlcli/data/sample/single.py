"""Rows of the tasks with one sentence: sst2 (sentiment) and cola (grammar)."""

from __future__ import annotations

from random import Random

from mtlcli.data.sample import words
from mtlcli.data.sample.world import World, sentence


def sst2(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """A verdict on a film or the like; 1 is positive. Negation and a second clause turn a verdict round."""
    style = rng.random()
    work = rng.choice(words.WORKS)
    if style < 0.35:
        return (f"{_verdict(rng, work, label)}.",)
    if style < 0.6:
        first, second = rng.sample(words.WORKS, 2)
        return (f"{_verdict(rng, first, 1 - label)}, but {_verdict(rng, second, label)}.",)
    if style < 0.8:
        person = rng.choice(words.PEOPLE)
        verb = rng.choice(words.LIKES if label else words.DISLIKES)
        return (f"{person} {verb} the {rng.choice(words.PRAISE if label else words.BLAME)} {work}.",)
    article = rng.choice(("a", "one"))
    first, second = rng.sample(words.PRAISE if label else words.BLAME, 2)
    return (f"{article} {first} and {second} {work}.",)


def _verdict(rng: Random, work: str, positive: int) -> str:
    negated = rng.random() < 0.35
    adjective = rng.choice(words.PRAISE if bool(positive) != negated else words.BLAME)
    degree = rng.choice(("", "", "very ", "really "))
    return f"the {work} was {rng.choice(('not ', 'never ')) if negated else ''}{degree}{adjective}"


def cola(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """An event in good English (1), or with its grammar broken in one place (0)."""
    present = ("who", "verb", "thing", *(slot for slot in ("quality", "place", "day") if rng.random() < 0.5))
    tokens = world.tell(rng, world.event(rng, present))
    if not label:
        tokens = _break(rng, tokens)
    return (sentence(tokens),)


def _break(rng: Random, tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The sentence with one word missing, moved, repeated or in the wrong form."""
    roles = [role for role, _ in tokens]
    verb = roles.index("verb")
    noun = roles.index("noun")
    determiner = max(i for i in range(noun) if roles[i] == "det")
    kind = rng.choice(("no verb", "no determiner", "no noun", "noun first", "verb last", "repeated", "wrong form"))
    if kind == "no verb":
        return tokens[:verb] + tokens[verb + 1 :]
    if kind == "no determiner":
        return tokens[:determiner] + tokens[determiner + 1 :]
    if kind == "no noun":
        return tokens[:noun] + tokens[noun + 1 :]
    if kind == "noun first":
        return [*tokens[:determiner], tokens[noun], *tokens[determiner:noun], *tokens[noun + 1 :]]
    if kind == "verb last":
        return [*tokens[:verb], *tokens[verb + 1 :], tokens[verb]]
    if kind == "repeated":
        twice = rng.choice((verb, noun, determiner))
        return [*tokens[: twice + 1], *tokens[twice:]]
    word = tokens[verb][1]
    forms = next(form for verbs in words.VERBS.values() for form in verbs if word in form)
    return [*tokens[:verb], ("verb", forms[0]), *tokens[verb + 1 :]]
