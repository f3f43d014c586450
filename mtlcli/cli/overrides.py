"""Single overrides of a command line: read by Hydra's own parser, applied to plain values."""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


def added(override: Override, text: str) -> str:
    """The override so that Hydra adds the key if no file spells it: the schema knows it, and that is what counts."""
    return text if override.is_delete() else "++" + text.lstrip("+")


@cache
def parsed(text: str) -> Override:
    """The override that a text on the command line stands for."""
    return OverridesParser.create().parse_override(text)


def is_task(override: Override) -> bool:
    """Whether a whole task is given: `+tasks.NAME={...}`."""
    parts = override.key_or_group.split(".")
    return len(parts) == 2 and parts[0] == "tasks" and isinstance(override.value(), dict)


def apply(override: Override, values: dict[str, Any]) -> None:
    """What Hydra does with `++key=value` and `~key`, on plain values: composing anew takes a hundred times longer."""
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
