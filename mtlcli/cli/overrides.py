"""Single overrides of a command line: Hydra's own parser reads them, and OmegaConf applies them to
plain values."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from mtlcli.errors import Problem
from mtlcli.registry import suggest


def added(override: Override, text: str) -> str:
    """Return the override in a form in which Hydra adds the key even if no file contains it,
    because the schema decides which keys exist."""
    return text if override.is_delete() else "++" + text.lstrip("+")


@cache
def parsed(text: str) -> Override:
    """Return the override that a text on the command line means."""
    return OverridesParser.create().parse_override(text)


def names_in(override: Override) -> list[Any]:
    """Return the names that an override of a group chooses: those of a list, or the one."""
    value = override.value()
    return value if isinstance(value, list) else [value]


def doubled(texts: list[str]) -> list[tuple[str, str]]:
    """Return the repeated values among `texts`, the values of a sweep over one key, each as
    `key=value`. Each entry is a pair of equal values, such as `1.0` and `1`, as they were typed."""
    first: dict[str, str] = {}
    repeated = []
    for text in texts:
        typed, value = text.partition("=")[2], repr(_one_form(parsed(text).value()))
        if value in first:
            repeated.append((first[value], typed))
        first.setdefault(value, typed)
    return repeated


def _one_form(value: Any) -> Any:
    """Return a value in one form for all ways to type it."""
    if isinstance(value, dict):
        return {key: _one_form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_one_form(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def lines_of(chosen: Iterable[Override]) -> tuple[str, ...]:
    """Return overrides as they are typed."""
    return tuple(override.input_line or "" for override in chosen)


def is_task(override: Override) -> bool:
    """Return whether an override sets a whole task: `+tasks.NAME={...}`."""
    parts = override.key_or_group.split(".")
    return len(parts) == 2 and parts[0] == "tasks" and isinstance(override.value(), dict)


def absent(key: str, values: dict[str, Any]) -> Problem | None:
    """Return a problem if there is nothing in plain values that `~key` could take out."""
    *sections, last = key.split(".")
    there: Any = values
    for section in sections:
        there = there.get(section) if isinstance(there, dict) else None
    names = list(map(str, there)) if isinstance(there, dict) else []
    if last in names:
        # Hydra takes nothing out that is null.
        return None if there[last] is not None else Problem("it is null", f"~{key}", "leave it out")
    fix = suggest(last, names) if names else "leave it out"
    return Problem("there is nothing of this name to take out", f"~{key}", fix)


def apply(override: Override, values: dict[str, Any]) -> None:
    """Apply an override to plain values as Hydra applies `++key=value` and `~key`. Raises
    OmegaConfBaseException when the value cannot be read.

    Only the section of the key becomes a configuration of OmegaConf, which takes 3 ms; composing
    everything again would take 300.
    """
    key, value = override.key_or_group, override.value()
    section = key.partition(".")[0]
    parent, _, last = key.rpartition(".")
    config = OmegaConf.create({section: values[section]} if section in values else {})
    if not override.is_delete():
        # Hydra cannot merge a dictionary and a list. Here the new value replaces the old one, and
        # the validation says what is expected.
        old = OmegaConf.select(config, key, throw_on_resolution_failure=False)
        merge = isinstance(value, dict) and isinstance(old, DictConfig)
        OmegaConf.update(config, key, value, merge=merge, force_add=True)
    elif isinstance(node := OmegaConf.select(config, parent) if parent else config, DictConfig):
        node.pop(last, None)
    changed: Any = OmegaConf.to_container(config)
    if section in changed:
        values[section] = changed[section]
    else:
        values.pop(section, None)
