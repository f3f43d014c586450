"""The schema of a configuration by key paths: the section, type and docstring of each key. Imports
neither torch nor hydra."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Le, Lt

from mtlcli.config import Config
from mtlcli.config.section import hints, key_of

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a configuration down to a value."""
TRUTHS = ("on", "off", "yes", "no")
"""Words that YAML 1.1 reads as truth values where they are not in quotes."""
QUOTE_TRUTHS = (
    "put it in quotes: YAML reads yes, no, on, off, true and false without quotes as true or false"
)
QUOTE_NUMBERS = "put it in quotes: YAML reads it as a number without them"
QUOTE_NULL = (
    "put it in quotes: YAML reads null, Null, NULL, ~ and an empty entry without quotes as no value"
)


def plain(hint: Any, value: Any) -> Any:
    """Return a type without its bounds and None, and the member that `value` names instead of a
    union."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not NoneType]
        if len(members) == 1:
            return plain(members[0], value)
        named = value if isinstance(value, dict) else {}
        for member in members:
            for key in ("type", "name"):
                if (
                    is_dataclass(member)
                    and key in hints(member)
                    and named.get(key) in get_args(hints(member)[key])
                ):
                    return member
        return Any
    return hint


def is_number(hint: Any) -> bool:
    """Return whether values of a type can be numbers."""
    return hint in (int, float) or any(map(is_number, get_args(hint)))


def has_upper_bound(hint: Any) -> bool:
    """Return whether a type has an upper bound."""
    return isinstance(hint, (Le, Lt)) or any(map(has_upper_bound, get_args(hint)))


def tags(hint: Any, key: str) -> list[str]:
    """Return the values of `key` that tell the members of a union apart."""
    if is_dataclass(hint):
        return list(get_args(hints(hint)[key])) if key in hints(hint) else []
    return [tag for part in get_args(hint) for tag in tags(part, key)]


def section_at(path: Sequence[str | int], values: Any) -> Any:
    """Return the config dataclass at a key path, or None."""
    hint: Any = Config
    for depth, part in enumerate(path):
        value = value_at(path[: depth + 1], values)
        if get_origin(hint) in (dict, list):
            hint = plain(get_args(hint)[-1], value)
        elif is_dataclass(hint) and part in hints(hint):
            hint = plain(hints(hint)[part], value)
        else:
            return None
    return hint if is_dataclass(hint) else None


def value_at(path: Sequence[str | int], values: Any) -> Any:
    """Return the value at a key path, or None."""
    for part in path:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def dotted(path: Iterable[str | int]) -> str:
    """Return a key path as users type it, for example `tasks.rte.labels[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def kinds(key: str) -> set[Any]:
    """Return the types that a dotted key can have with any choice of methods and task types:
    `list`, `str`, `float`, ...; empty for an unknown key."""
    open_hints: list[Any] = [Config]
    for part in key.split("."):
        inner: list[Any] = []
        for hint in _members(open_hints):
            if get_origin(hint) is dict:
                inner.append(get_args(hint)[1])
            elif is_dataclass(hint) and part in hints(hint):
                inner.append(hints(hint)[part])
        open_hints = inner
    return {get_origin(hint) or hint for hint in _members(open_hints)}


def _members(found: Iterable[Any]) -> list[Any]:
    """Return types without their bounds, with the members instead of each union."""
    members: list[Any] = []
    for hint in found:
        if get_origin(hint) is Annotated:
            members += _members(get_args(hint)[:1])
        elif get_origin(hint) in (Union, UnionType):
            members += _members(get_args(hint))
        else:
            members.append(hint)
    return members


def is_inside(where: str, known: str) -> bool:
    """Return whether the key path `where` is `known` or lies below it."""
    return where == known or where.startswith((f"{known}.", f"{known}["))


def alternatives(path: Sequence[str]) -> list[Any]:
    """Return the members of the union at a key path; empty if there is none."""
    hint = hints(Config).get(path[0]) if path else None
    if len(path) == 2 and path[0] == "tasks":
        hint = get_args(get_args(hint)[0])[1]
    elif len(path) != 1 or path[0] == "tasks":
        return []
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else []


@cache
def leaves() -> list[str]:
    """Return the dotted paths of all keys, with NAME for a task's name."""
    paths: dict[str, None] = {}

    def walk(hint: Any, prefix: str) -> None:
        if is_dataclass(hint):
            for name, inner in hints(hint).items():
                paths[f"{prefix}{name}"] = None
                walk(inner, f"{prefix}{name}.")
        elif get_origin(hint) is dict and prefix == "tasks.":
            walk(get_args(hint)[1], "tasks.NAME.")
        elif get_origin(hint) in (Annotated, Union, UnionType):
            # Of an `Annotated`, only the first argument is a type; the others are its bounds.
            for part in get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint):
                walk(part, prefix)

    walk(Config, "")
    return list(paths)


@cache
def docs(section: type) -> dict[str, str]:
    """Return key -> the docstring below it, for a config dataclass and its base classes."""
    texts: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if not is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        for field, text in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                texts[key_of(field.target.id)] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return texts
