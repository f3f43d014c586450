"""What a run that begins with the weights of another run (`init.from`) has to have in common with
it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtlcli.config import Config, Task
from mtlcli.config.section import hints, replaced
from mtlcli.errors import Problem

MODEL = ("architecture", "layers", "hidden", "heads", "vocabulary", "initializer_range")
"""Keys of `model` that say what a model from scratch is."""
SOURCE = ("kind", "name", "pooling", *MODEL, "lr", "scratch_lr")
"""Keys of `model` that a run takes from the other run where it leaves `model.kind` open."""
LABELS = ("type", "form", "labels", "label_ids")
"""Keys of a task that say what the outputs of its head mean."""


def with_model_of(config: Config, other: Config) -> Config:
    """Return a config with the model of `other`, the config of the run whose weights are taken,
    where `model.kind` is `auto`; else with its pooling, where that is open."""
    open_keys = SOURCE if config.model.kind == "auto" else ()
    if config.model.pooling == "auto":
        open_keys = (*open_keys, "pooling")
    return replaced(config, {f"model.{key}": getattr(other.model, key) for key in open_keys})


def other_model(config: Config, other: Config) -> Iterator[Problem]:
    """Yield a problem for each value that asks for another model than that of `other`."""
    kind = config.model.kind
    keys = {"pretrained": ("kind", "name"), "scratch": ("kind", *MODEL), "auto": ()}[kind]
    if config.model.pooling != "auto":
        keys = (*keys, "pooling")
    for key in keys:
        asked, there = getattr(config.model, key), getattr(other.model, key)
        if asked != there:
            yield Problem(
                f"the run asks for {asked}, and the run of init.from has {there}",
                f"model.{key}",
                "leave the model out (model=auto): it comes with the weights",
            )
            if key == "kind":
                return


def other_head(mine: Task, theirs: Task) -> str | None:
    """Return why the head of a task in another run is not the head of a task with these settings,
    as a clause; None if the labels are the same. Shapes are compared elsewhere."""
    for key in (*LABELS, "range"):
        if key not in hints(type(mine)):
            continue
        asked, there = getattr(mine, key), getattr(theirs, key, None)
        if asked != there:
            return f"{key} is {_short(there)} there and {_short(asked)} here"
    return None


def other_settings(mine: Any, theirs: Any) -> list[str]:
    """Return the keys of a method in which two configs of it differ, as `key (theirs, mine)`."""
    return [
        f"{key} ({_short(getattr(theirs, key))} there, {_short(getattr(mine, key))} here)"
        for key in hints(type(mine))
        if getattr(mine, key) != getattr(theirs, key)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
