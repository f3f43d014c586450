"""The schema of a configuration, walked by key paths: which section, type and docstring belong to a
key. No torch, no hydra."""

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
from mtlcli.config.section import hints

Path = tuple[str | int, ...]
"""Keys, and numbers of list entries, from the top down to a value."""
QUOTE_TRUTHS = (
    "put it in quotes: YAML reads yes, no, on, off, true and false without quotes as true or false"
)
QUOTE_NUMBERS = "put it in quotes: YAML reads it as a number without them"
QUOTE_NULL = (
    "put it in quotes: YAML reads null, Null, NULL, ~ and an empty entry without quotes as no value"
)


def plain(hint: Any, value: Any) -> Any:
    """What a type stands for at this value: without its bounds and None, and of a union the member
    that the value names."""
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
    """Whether values of a type are numbers, or can be."""
    return hint in (int, float) or any(map(is_number, get_args(hint)))


def has_upper_bound(hint: Any) -> bool:
    """Whether a type says how large its numbers can be."""
    return isinstance(hint, (Le, Lt)) or any(map(has_upper_bound, get_args(hint)))


def tags(hint: Any, key: str) -> list[str]:
    """The names that tell the members of a union apart."""
    if is_dataclass(hint):
        return list(get_args(hints(hint)[key])) if key in hints(hint) else []
    return [tag for part in get_args(hint) for tag in tags(part, key)]


def section_at(path: Sequence[str | int], values: Any) -> Any:
    """The config dataclass at a key path, or None."""
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
    """The value at a key path, or None."""
    for part in path:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def dotted(path: Iterable[str | int]) -> str:
    """A key path as it is typed, `tasks.rte.labels[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def kinds(key: str) -> set[Any]:
    """What a dotted key can hold, whatever methods and task types are chosen: `list`, `str`,
    `float`, ...; empty for an unknown key."""
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
    """Types without their bounds, and instead of a union its members."""
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
    """Whether the key path `where` is `known` or below it."""
    return where == known or where.startswith((f"{known}.", f"{known}["))


def alternatives(path: Sequence[str]) -> list[Any]:
    """The members of the union that stands at a key path, if one does."""
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
    """The dotted paths of all keys, with NAME for a task's name."""
    paths: dict[str, None] = {}

    def walk(hint: Any, prefix: str) -> None:
        if is_dataclass(hint):
            for name, inner in hints(hint).items():
                paths[f"{prefix}{name}"] = None
                walk(inner, f"{prefix}{name}.")
        elif get_origin(hint) is dict and prefix == "tasks.":
            walk(get_args(hint)[1], "tasks.NAME.")
        elif get_origin(hint) in (Annotated, Union, UnionType):
            # Behind the type of an `Annotated` stand its bounds, which are no keys.
            for part in get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint):
                walk(part, prefix)

    walk(Config, "")
    return list(paths)


@cache
def docs(section: type) -> dict[str, str]:
    """Field -> the docstring under it, for a config dataclass and what it is derived from."""
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
                texts[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return texts
