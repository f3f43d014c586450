"""Rows of the tasks with one sentence: sst2 (sentiment) and cola (grammar)."""

from __future__ import annotations

from random import Random

from mtlcli.data.sample import words
from mtlcli.data.sample.world import OPTIONAL, VALUES, Tokens, World, sentence


def sst2(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return a verdict on a film or the like: positive (1) or negative (0). Negation and a
    contrasting clause make single words misleading."""
    style = rng.random()
    if style < 0.3:
        return (sentence(_verdict(rng, _work(rng), label)),)
    if style < 0.45:
        return (
            sentence(
                f"{_verdict(rng, _work(rng), 1 - label)}, but {_verdict(rng, _work(rng), label)}"
            ),
        )
    if style < 0.75:
        verb = rng.choice(words.VERBS["like" if label else "hate"])
        adjective = rng.choice(words.PRAISE if label else words.BLAME)
        return (sentence(f"{rng.choice(words.PEOPLE)} {verb[1]} the {adjective} {_work(rng)}"),)
    first, second = rng.sample(words.PRAISE if label else words.BLAME, 2)
    return (sentence(f"{rng.choice(('a', 'one'))} {first} and {second} {_work(rng)}"),)


def _work(rng: Random) -> str:
    return rng.choice(words.WORKS if rng.random() < 0.7 else VALUES["thing"])


def _verdict(rng: Random, work: str, positive: int) -> str:
    negated = rng.random() < 0.3
    adjective = rng.choice(words.PRAISE if bool(positive) != negated else words.BLAME)
    no = rng.choice(("not ", "never ")) if negated else ""
    degree = rng.choice(("", "", "very ", "really "))
    return f"the {work} was {no}{degree}{adjective}"


def cola(world: World, rng: Random, label: int) -> tuple[str, ...]:
    """Return an event in good English (1), or with its grammar broken in one place (0)."""
    event = world.event(rng, rng.sample(OPTIONAL, rng.choice((1, 2))))
    tokens = world.deny(rng, event) if rng.random() < 0.2 else world.tell(rng, event)
    return (sentence(tokens if label else _break(rng, tokens)),)


def _break(rng: Random, tokens: Tokens) -> Tokens:
    """Return the sentence with one word missing, moved, repeated or in the wrong form."""
    roles = [role for role, _ in tokens]
    verb = roles.index("verb")
    noun = roles.index("noun")
    determiner = max(i for i in range(noun) if roles[i] == "det")
    kind = rng.choice(
        ("no verb", "no determiner", "no noun", "noun first", "verb last", "repeated", "wrong form")
    )
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
    forms = next(
        form for verbs in words.VERBS.values() for form in verbs if tokens[verb][1] in form
    )
    wrong = forms[1] if tokens[verb][1] == forms[0] else forms[0]
    return [*tokens[:verb], ("verb", wrong), *tokens[verb + 1 :]]
