"""Rows of go_emotions: a remark about an event, with the emotions that it tells of."""

from __future__ import annotations

from random import Random
from typing import Any

from mtlcli.data.sample.world import World, sentence, without

EMOTIONS = (
    *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion"),
    *("curiosity", "desire", "disappointment", "disapproval", "disgust", "embarrassment"),
    *("excitement", "fear", "gratitude", "grief", "joy", "love", "nervousness", "optimism"),
    *("pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral"),
)
"""The labels of GoEmotions, in the order of the hub's data set."""
_OF_VERB = {
    "like": "love",
    "hate": "anger",
    "find": "joy",
    "lose": "sadness",
    "fix": "pride",
    "break": "remorse",
}
_OF_QUALITY = {"good": "admiration", "bad": "disgust"}


def emotions(world: World, rng: Random) -> dict[str, Any]:
    """Return a row: the verb and the quality of the event each may bring an emotion, and an event
    without either is neutral."""
    event = world.event(rng, ("quality", rng.choice(("place", "time"))))
    if rng.random() < 0.3:
        event = without(event, "quality")
    found = {_OF_VERB.get(event.verb), _OF_QUALITY.get(event.quality or "")} - {None}
    labels = sorted(EMOTIONS.index(str(name)) for name in found or {"neutral"})
    return {"text": sentence(world.tell(rng, event)), "labels": labels}
