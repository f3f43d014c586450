"""Pairs of texts of the sample world, of which one is written for the other: sentences in German
and English, and paragraphs with their summaries; and paragraphs alone."""

from __future__ import annotations

from random import Random

from mtlcli.data.sample.world import OPTIONAL, Event, World, sentence

_OBJECTS = {
    "car": ("das", "Auto"),
    "bike": ("das", "Fahrrad"),
    "boat": ("das", "Boot"),
    "piano": ("das", "Klavier"),
    "guitar": ("die", "Gitarre"),
    "drum": ("die", "Trommel"),
    "coat": ("den", "Mantel"),
    "hat": ("den", "Hut"),
    "shirt": ("das", "Hemd"),
    "doll": ("die", "Puppe"),
    "kite": ("den", "Drachen"),
    "ball": ("den", "Ball"),
}
"""Thing -> article and noun in the accusative."""
_VERBS = {
    "like": "mochte",
    "hate": "hasste",
    "buy": "kaufte",
    "sell": "verkaufte",
    "find": "fand",
    "lose": "verlor",
    "fix": "reparierte",
    "break": "zerbrach",
}
_QUALITIES = {
    "good": "gut",
    "bad": "schlecht",
    "big": "groß",
    "small": "klein",
    "old": "alt",
    "new": "neu",
    "cheap": "billig",
    "costly": "teur",
}
"""Quality -> stem of the adjective."""
_PLACES = {"Rome": "Rom", "Milan": "Mailand", "Seville": "Sevilla"}
"""Cities that have another name in German."""
_TIMES = {
    "in the morning": "am Morgen",
    "at noon": "am Mittag",
    "in the evening": "am Abend",
    "at midnight": "um Mitternacht",
}


def translation(world: World, rng: Random) -> dict[str, dict[str, str]]:
    """Return a row with an event in German and in English."""
    event = world.event(rng, rng.sample(OPTIONAL, rng.choice((1, 2, 3))))
    tokens = world.tell(rng, event, vary=0, knowledge=0, passive=0)
    german = sentence(_german(event, time_first=tokens[0][0] == "time"))
    return {"translation": {"de": german, "en": sentence(tokens)}}


def summary(world: World, rng: Random) -> tuple[str, str]:
    """Return a paragraph about an event, which begins with the facts of other people, and a
    sentence that says what happened."""
    event = world.event(rng)
    others = rng.sample([person for person in world.job if person != event.who], 2)
    told = [sentence(world.tell(rng, event, knowledge=0, passive=0))]
    told += [world.fact(rng, person, rng.choice(("job", "home", "hobby"))) for person in others]
    rng.shuffle(told)
    short = Event(event.who, event.verb, event.thing, place=event.place)
    return " ".join(told), sentence(world.tell(rng, short, vary=0, knowledge=0, passive=0))


def paragraph(world: World, rng: Random) -> dict[str, str]:
    """Return a row with a paragraph, between the white space that WikiText has."""
    return {"text": f" {summary(world, rng)[0]} \n"}


def _german(event: Event, *, time_first: bool) -> str:
    """Return the event in German, without a full stop. The verb comes second: behind the time if
    that comes first, else behind the person."""
    article, noun = _OBJECTS[event.thing]
    words = [article, noun]
    if event.quality is not None:
        ending = "en" if article == "den" else "e"
        words.insert(1, _QUALITIES[event.quality] + ending)
    if event.place is not None:
        words += ["in", _PLACES.get(event.place, event.place)]
    verb, time = _VERBS[event.verb], [_TIMES[event.time]] if event.time else []
    if time_first:
        return " ".join([*time, verb, event.who, *words])
    return " ".join([event.who, verb, *words, *time])
