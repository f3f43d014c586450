"""Rows of the tasks with one text: topics of news, reviews, questions, feelings."""

from __future__ import annotations

from random import Random
from typing import Any

from mtlcli.data.sample import words
from mtlcli.data.sample.single import sst2
from mtlcli.data.sample.world import VALUES, World, article, join, sentence

Row = dict[str, Any]

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
"""The classes of AG News, in the order of the hub's data set."""
_NEWS = (
    ("the minister of {country} flew to {city}", "voters in {city} chose a new mayor"),
    ("the team of {city} won the match", "a runner from {country} broke the record"),
    ("a firm in {city} sold its {thing} business", "prices of {kind}s rose in {country}"),
    ("engineers in {city} built a robot", "a new chip from {country} makes computers faster"),
)
EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")
"""The classes of Emotion, in the order of the hub's data set."""
_FEELING_OF = {"lose": 0, "find": 1, "like": 2, "hate": 3, "break": 4, "fix": 5}
_FEELS = ("i feel like", "i feel that", "i was feeling as if", "i felt when")
COARSE = ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")
"""The coarse classes of TREC, in the order of the hub's data set."""
FINE = (
    *("ABBR:abb", "ABBR:exp", "ENTY:animal", "ENTY:body", "ENTY:color", "ENTY:cremat"),
    *("ENTY:currency", "ENTY:dismed", "ENTY:event", "ENTY:food", "ENTY:instru", "ENTY:lang"),
    *("ENTY:letter", "ENTY:other", "ENTY:plant", "ENTY:product", "ENTY:religion", "ENTY:sport"),
    *("ENTY:substance", "ENTY:symbol", "ENTY:techmeth", "ENTY:termeq", "ENTY:veh", "ENTY:word"),
    *("DESC:def", "DESC:desc", "DESC:manner", "DESC:reason", "HUM:gr", "HUM:ind", "HUM:title"),
    *("HUM:desc", "LOC:city", "LOC:country", "LOC:mount", "LOC:other", "LOC:state", "NUM:code"),
    *("NUM:count", "NUM:date", "NUM:dist", "NUM:money", "NUM:ord", "NUM:other", "NUM:period"),
    *("NUM:perc", "NUM:speed", "NUM:temp", "NUM:volsize", "NUM:weight"),
)
"""The fine classes of TREC, in the order of the hub's data set."""
_ASKED = {
    "who": "HUM:ind",
    "thing": "ENTY:product",
    "place": "LOC:city",
    "time": "NUM:date",
}


def ag_news(world: World, rng: Random) -> list[Row]:
    """Return a piece of news, to which an event of the world is added."""
    label = rng.randrange(len(TOPICS))
    event = world.event(rng, ("time",))
    city = rng.choice(VALUES["place"])
    filled = {"city": city, "country": words.COUNTRY_OF[city], "thing": event.thing}
    text = rng.choice(_NEWS[label]).format(kind=words.KIND_OF[event.thing], **filled)
    return [{"text": f"{sentence(text)} {sentence(world.tell(rng, event))}", "label": label}]


def reviews(world: World, rng: Random, negative: int = 0) -> str:
    """Return a review of four sentences, `negative` of which find fault."""
    told = [sst2(world, rng, int(number >= negative))[0] for number in range(4)]
    rng.shuffle(told)
    return " ".join(told)


def polarity(world: World, rng: Random) -> list[Row]:
    """Return a review that praises (1) or finds fault (0), with one sentence to the contrary in
    some."""
    label = rng.randrange(2)
    contrary = rng.random() < 0.4
    return [{"text": reviews(world, rng, int(contrary) if label else 4 - contrary), "label": label}]


def stars(world: World, rng: Random) -> list[Row]:
    """Return a review whose sentences of praise are its stars less one."""
    label = rng.randrange(5)
    return [{"text": reviews(world, rng, 4 - label), "label": label}]


def trec(world: World, rng: Random) -> list[Row]:
    """Return a question with the class of its answer, coarse and fine."""
    event = world.event(rng, ("place", "time"))
    kind = rng.random()
    if kind < 0.7:
        slot = rng.choice(tuple(_ASKED))
        text, fine = world.ask(rng, event, slot), _ASKED[slot]
    elif kind < 0.85:
        told = f"{event.who} {rng.choice(words.VERBS[event.verb])[0]}"
        where = join(world.where(rng, event, 0))
        text, fine = f"Why did {told} the {event.thing} {where}?", "DESC:reason"
    else:
        letters = "".join(rng.choice("ABCDEFGHIKLM") for _ in range(3))
        text, fine = f"What does the abbreviation {letters} stand for?", "ABBR:exp"
    coarse = COARSE.index(fine.partition(":")[0])
    return [{"text": text, "coarse_label": coarse, "fine_label": FINE.index(fine)}]


def emotion(world: World, rng: Random) -> list[Row]:
    """Return what somebody feels, which the verb of an event tells."""
    verb = rng.choice(tuple(_FEELING_OF))
    event = world.event(rng, ("place", rng.choice(("quality", "time"))))
    forms = rng.choice(words.VERBS[verb])
    told = f"{rng.choice(_FEELS)} i {forms[1]} {join(world.object(rng, event, 0.25))}"
    more = f" in {event.place.lower()}" if event.place else ""
    job = article(world.job[event.who]) if rng.random() < 0.3 else event.who.lower()
    return [{"text": f"{told}{more} with {job}", "label": _FEELING_OF[verb]}]
