"""A small registry: the name of a method -> its config dataclass and the class that implements it.

The config is known without importing the implementation, because every mistake in a configuration
is reported before torch is imported. The implementation is named as "package.module:Class" and
imported when it is built.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, TypeVar

from mtlcli.errors import UserError

T = TypeVar("T", bound=type)
LISTED = 100
"""The number of choices that a message lists."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that looks most like `name`, or None when none is close."""
    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return the advice for an unknown name: the nearest choice first, then all choices, or the
    first LISTED of them."""
    choices = sorted(choices)
    close = nearest(name, choices)
    more = f", ... ({len(choices):,} in all)" if len(choices) > LISTED else ""
    return (
        (f"did you mean '{close}'? " if close else "")
        + "choices: "
        + ", ".join(choices[:LISTED])
        + more
    )


class Registry:
    """A map from a name to a config dataclass and, imported on demand, to the class that takes this
    config."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.configs: dict[str, type] = {}
        self._paths: dict[str, str] = {}

    def register(self, name: str, implementation: str) -> Callable[[T], T]:
        """Return a class decorator for the config of method `name`; `implementation` is
        "package.module:Class"."""

        def add(config: T) -> T:
            if name in self.configs:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self.configs[name] = config
            self._paths[name] = implementation
            return config

        return add

    def implementation(self, name: str) -> Any:
        """Return the class that implements `name`. Raises UserError with the nearest name when
        there is none."""
        if name not in self._paths:
            raise UserError(f"unknown {self.kind} '{name}'", fix=suggest(name, self._paths))
        module, _, attribute = self._paths[name].partition(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.configs)

    def __contains__(self, name: object) -> bool:
        return name in self.configs
