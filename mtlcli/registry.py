"""A small registry: the name of a method -> its config dataclass and the class that implements it.

Methods are found by folder: the first look into a registry imports what lies in its folders, and
what other installed packages offer as entry points; each of these modules registers its configs.
Files of the user add theirs later (`config/own_code.py`).
They load no torch, because every mistake in a configuration is reported before torch is imported.
An implementation that needs torch at import is named as text, and imported when it is built.
Near names are found by Python's difflib.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeVar

from mtlcli.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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

    def __init__(self, kind: str, *folders: str, group: str = "") -> None:
        """`folders`: the packages with the methods; each package inside is one, or, where there are
        none, each module. `group`: the group of entry points through which other packages add
        theirs; each entry point names a module."""
        self.kind = kind
        self._folders = folders
        self._group = group
        self._configs: dict[str, type] = {}
        self._implementations: dict[str, tuple[str, str]] = {}
        self._built_in: set[str] = set()
        self._found = False

    def register(self, name: str, implementation: str) -> Callable[[T], T]:
        """Return a class decorator for the config of method `name`. `implementation`: "Class" in
        the module of the config, or "module:Class"; a module `.trunk` lies in the package that the
        config is in."""

        def add(config: T) -> T:
            if name in self._configs:
                raise ValueError(f"{self.kind} '{name}' is registered twice; choose another name")
            if not any(
                "Literal" in str(config.__annotations__.get(key)) and vars(config).get(key) == name
                for key in ("name", "type")
            ):
                field = f'name: Literal["{name}"] = "{name}"'
                raise ValueError(
                    f"the config of {self.kind} '{name}' needs the field {field}, or type of a task"
                )
            module, _, attribute = implementation.rpartition(":")
            # In one order, whichever module somebody has imported before.
            self._configs = dict(sorted([*self._configs.items(), (name, config)]))
            self._implementations[name] = (
                resolve_name(module, config.__module__) if module else config.__module__,
                attribute,
            )
            return config

        return add

    @property
    def configs(self) -> dict[str, type[Any]]:
        """The config dataclasses by name."""
        if not self._found:
            self._found = True
            for folder in self._folders:
                inside = list(iter_modules(import_module(folder).__path__))
                for module in [each for each in inside if each.ispkg] or inside:
                    import_module(f"{folder}.{module.name}")
            self._built_in = set(self._configs)
            load_entry_points(self._group)
        return self._configs

    def names_of_others(self) -> list[str]:
        """Return the names that other packages, or files of the user, have registered."""
        return [name for name in self.configs if name not in self._built_in]

    def about(self, name: str) -> str:
        """Return the first paragraph of the docstring of a config, as one line."""
        text = (self.configs[name].__doc__ or "").partition("\n\n")[0]
        return " ".join(text.split()).removesuffix(".")

    def implementation(self, name: str) -> Any:
        """Return the class that implements `name`. Raises UserError with the nearest name when
        there is none."""
        if name not in self.configs:
            raise UserError(f"unknown {self.kind} '{name}'", fix=suggest(name, self.configs))
        module, attribute = self._implementations[name]
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.configs)

    def __contains__(self, name: object) -> bool:
        return name in self.configs


def load_entry_points(group: str) -> None:
    """Import the modules that installed packages name in a group of entry points. Raises UserError
    for one that cannot be imported."""
    for entry in _entry_points():
        if entry.group == group:
            try:
                entry.load()
            except Exception as error:  # Another package's code runs here.
                raise UserError(
                    f"cannot be imported: {type(error).__name__}: {error}",
                    f"entry point {entry.name} = {entry.value} of the group {group}",
                    "fix or uninstall the package that provides it",
                ) from error


@cache
def _entry_points() -> list[EntryPoint]:
    """Return the entry points of installed packages in groups whose name begins with `mtlcli.`.

    importlib.metadata takes a tenth of a second to look through all packages, so only those are
    looked at whose file names such a group.
    """
    files = [
        Path(folder, name, "entry_points.txt")
        for folder in dict.fromkeys(sys.path)
        if os.path.isdir(folder or ".")  # noqa: PTH112 (a TAB waits for this)
        for name in os.listdir(folder or ".")  # noqa: PTH208
        if name.endswith((".dist-info", ".egg-info"))
    ]
    found: dict[str, list[EntryPoint]] = {}
    for file in files:
        if file.is_file() and b"[mtlcli." in file.read_bytes():
            from importlib.metadata import Distribution

            # A package that lies on the path twice is imported from its first place.
            found.setdefault(
                file.parent.name.partition("-")[0],
                [
                    entry
                    for entry in Distribution.at(file.parent).entry_points
                    if entry.group.startswith("mtlcli.")
                ],
            )
    return [entry for entries in found.values() for entry in entries]
