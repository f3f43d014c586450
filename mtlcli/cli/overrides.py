"""Single overrides of a command line: read by Hydra's own parser, applied to plain values."""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


def added(override: Override, text: str) -> str:
    """The override so that Hydra adds the key if no file spells it: the schema knows it, and that
    is what counts."""
    return text if override.is_delete() else "++" + text.lstrip("+")


@cache
def parsed(text: str) -> Override:
    """The override that a text on the command line stands for."""
    return OverridesParser.create().parse_override(text)


def doubled(texts: list[str]) -> list[tuple[str, str]]:
    """Of the values of a sweep over one key, each as `key=value`, those that are there before, as
    `1.0` is `1`: both as typed."""
    first: dict[str, str] = {}
    again = []
    for text in texts:
        typed, value = text.partition("=")[2], repr(_one_form(parsed(text).value()))
        if value in first:
            again.append((first[value], typed))
        first.setdefault(value, typed)
    return again


def _one_form(value: Any) -> Any:
    """A value in the form that all ways to type it have."""
    if isinstance(value, dict):
        return {key: _one_form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_one_form(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_task(override: Override) -> bool:
    """Whether a whole task is given: `+tasks.NAME={...}`."""
    parts = override.key_or_group.split(".")
    return len(parts) == 2 and parts[0] == "tasks" and isinstance(override.value(), dict)


def apply(override: Override, values: dict[str, Any]) -> None:
    """What Hydra does with `++key=value` and `~key`, on plain values: composing anew takes a
    hundred times longer."""
    *path, last = override.key_or_group.split(".")
    for part in path:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    value: Any = override.value()
    if override.is_delete():
        values.pop(last, None)
    else:
        values[last] = _merged(values.get(last), value)


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}
