"""From plain values to a Config: every mistake is found at once and said in plain words. No torch, no hydra."""

from __future__ import annotations

import ast
import copy
import inspect
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mtlcli.config import Config
from mtlcli.config.crosscheck import crosscheck
from mtlcli.errors import Problem, UserError
from mtlcli.registry import nearest, suggest

Path = tuple[str | int, ...]
"""Keys, and numbers of list entries, from the top down to a value."""
GROUPS_OF_TASKS = ("task", "experiment")
"""Configuration groups that are no section of Config."""


def validate(values: dict[str, Any]) -> Config:
    """The Config that `values` say. Raises UserError with all problems."""
    config, problems = check(values)
    if problems or config is None:
        raise UserError(problems)
    return config


def check(values: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    """The Config that `values` say, or None, and everything that is wrong with them."""
    adapter = _adapter()
    tolerated = copy.deepcopy(values)
    problems = []
    refused: list[str] = []
    for path, value in _not_finite((), values):
        problems.append(Problem(f"must be a finite number, found {value}", _dotted(path), _help(path, values)))
        _take_out(tolerated, path, "")
        refused.append(_dotted(path))
    # Values that are refused are taken out and the rest is validated again, so that one mistake does not hide another.
    for _ in range(3):
        try:
            config = adapter.validate_json(json.dumps(tolerated, default=str), strict=True)
        except ValidationError as error:
            entries = _one_each([(entry, _without_tags(entry["loc"], tolerated)) for entry in error.errors(include_url=False)])
            # Said before anything is taken out: what a key is called depends on its neighbours, for example a task's type.
            said = [_say(entry, path, tolerated) for entry, path in entries]
            for (entry, path), problem in zip(entries, said, strict=True):
                if not refused or not any(is_inside(problem.where, known) for known in refused):
                    problems.append(problem)
                _take_out(tolerated, path, entry["type"])
                refused += [problem.where, _dotted(path)]
        else:
            together = crosscheck(config, values)
            problems += [problem for problem in together if not any(is_inside(known, problem.where) for known in refused)]
            return (None if problems else config), problems
    return None, problems


def check_key(key: str, values: dict[str, Any]) -> Problem | None:
    """What is wrong with a dotted key that a user wants to set in a run with these values, or None."""
    parts = key.split(".")
    hint: Any = Config
    for depth, part in enumerate(parts):
        here = _value_at(parts[:depth], values)
        if hint is Any:
            return None
        if get_origin(hint) is dict:
            if parts[:depth] == ["tasks"] and part not in here:
                return _not_in_run(key, part, list(here))
            hint = _plain(get_args(hint)[1], _value_at(parts[: depth + 1], values))
            continue
        if not is_dataclass(hint):
            return Problem(f"'{'.'.join(parts[:depth])}' is a single value and has no keys", where=key, fix=_help(parts[:depth], values))
        known = [field.name for field in fields(hint)]
        if part not in known:
            return Problem(f"unknown key '{part}'", where=key, fix=_suggest_key(parts, depth, known, values))
        hint = _plain(_hints(hint)[part], _value_at(parts[: depth + 1], values))
    return None


def found(value: Any) -> str:
    """A value as it is shown to the user, shortened."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------------------ pydantic's errors in words


@cache
def _adapter() -> TypeAdapter[Config]:
    return TypeAdapter(Config)


KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a section",
    "dataclass_type": "a section",
}
BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _say(error: Any, path: Path, values: dict[str, Any]) -> Problem:
    """One of pydantic's errors in plain words."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    where = _dotted(path)
    if kind == "unexpected_keyword_argument":
        parts = [str(part) for part in path]
        section = _section_at(path[:-1], values)
        known = [field.name for field in fields(section)] if section else []
        return Problem(f"unknown key '{parts[-1]}'", where, _suggest_key(parts, len(parts) - 1, known, values))
    if path == ("tasks",) and kind in ("missing", "too_short"):
        return Problem("the run has no task", "task", "choose some, for example task=rte or 'task=[cola,rte]'; mtl tasks lists them")
    if kind == "missing":
        return Problem("must be given", where, _help(path, values))
    if kind == "literal_error":
        what = f"must be {error['or'][0]} or a word, found {found(value)}" if error["or"] else f"{found(value)} is not one of its values"
        return Problem(what, where, suggest(str(value), _quoted(context["expected"])))
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        return Problem(f"unknown {key} '{context['tag']}'", f"{where}.{key}", suggest(context["tag"], _quoted(context["expected_tags"])))
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        hint = _hints(Config)["tasks" if path[0] == "tasks" else str(path[0])]
        return Problem("must be given", f"{where}.{key}", "choices: " + ", ".join(sorted(_tags(hint, key))))
    if kind == "too_short":
        return Problem(f"needs at least {context['min_length']} entries, found {found(value)}", where, _help(path, values))
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return Problem(f"must be {words} {context[key]:g}, found {found(value)}", where, _help(path, values))
    if kind in KINDS:
        fix = _help(path, values)
        if kind == "string_type" and isinstance(value, bool):
            fix = "put it in quotes: YAML reads yes, no, on, off, true and false without quotes as true or false"
        elif kind == "string_type" and isinstance(value, (int, float)):
            fix = "put it in quotes: YAML reads it as a number without them"
        return Problem(f"must be {KINDS[kind]}, found {found(value)}", where, fix)
    return Problem(f"{error['msg'][0].lower()}{error['msg'][1:]}, found {found(value)}", where, _help(path, values))


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _without_tags(location: Path, values: Any) -> Path:
    """The key path of an error: pydantic puts the chosen member of a union into it, which nobody typed."""
    tagged = 2 if location[0] == "tasks" else 1 if location[0] in ("sharing", "weighting", "sampling") else len(location)
    path = location[:tagged] + location[tagged + 1 :]
    value: Any = values
    for depth, part in enumerate(path):
        if isinstance(value, list) and not isinstance(part, int):
            return path[:depth] + path[depth + 1 :]
        if not isinstance(value, (dict, list)):
            return path[:depth]
        if isinstance(value, dict) and part not in value:
            break
        value = value[part]  # type: ignore[index]
    return path


def _one_each(entries: list[tuple[Any, Path]]) -> list[tuple[Any, Path]]:
    """Of a value that may be a word or something else, and is neither, pydantic says both: a wrong word is said as one error, in which `or`
    is what else it may be; of anything else only that it is no such thing."""
    kept = []
    for entry, path in entries:
        others = [other for other, place in entries if other is not entry and place[: len(path)] == path]
        if entry["type"] == "literal_error":
            if not others or isinstance(entry["input"], str):
                kinds = [KINDS[other["type"]] for other in others if other["type"] in KINDS]
                kept.append(({**entry, "or": kinds}, path))
        elif not (isinstance(entry["input"], str) and any(other["type"] == "literal_error" for other in others)):
            kept.append((entry, path))
    return kept


def _take_out(values: Any, path: Path, kind: str) -> None:
    """Remove a refused value, so that its default takes its place; where there is none, the section around it."""
    if kind in ("missing", "union_tag_not_found", "union_tag_invalid") or len(path) == 1:
        if path[0] == "tasks" and len(path) > 1:
            path = path[:2]
        else:
            values.pop(path[0], None)
            defaults = {"sharing": {"name": "hard"}, "weighting": {"name": "static"}, "sampling": {"name": "proportional"}}
            if path[0] in defaults:
                values[path[0]] = defaults[str(path[0])]
            return
    # An entry of a list cannot be taken out alone: the others would move up.
    path = path[: next((index for index, part in enumerate(path) if isinstance(part, int)), len(path))]
    holder = _value_at(path[:-1], values)
    if isinstance(holder, dict):
        holder.pop(path[-1], None)


def _not_finite(path: Path, value: Any) -> Iterator[tuple[Path, float]]:
    """Numbers that are infinite or none: JSON, which the run folder is written in, has no form for them."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite((*path, key), inner)
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, value


# ------------------------------------------------------------------------------------------------ walking the schema


def _hints(section: Any) -> dict[str, Any]:
    """Field -> type of a config dataclass; class variables are no fields."""
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in fields(section)}


def _plain(hint: Any, value: Any) -> Any:
    """What a type stands for at this value: without its bounds and None, and of a union the member that the value names."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not NoneType]
        if len(members) == 1:
            return _plain(members[0], value)
        named = value if isinstance(value, dict) else {}
        for member in members:
            for key in ("type", "name"):
                if is_dataclass(member) and key in _hints(member) and named.get(key) in get_args(_hints(member)[key]):
                    return member
        return Any
    return hint


def _tags(hint: Any, key: str) -> list[str]:
    """The names that tell the members of a union apart."""
    if is_dataclass(hint):
        return list(get_args(_hints(hint)[key])) if key in _hints(hint) else []
    return [tag for part in get_args(hint) for tag in _tags(part, key)]


def _section_at(path: Sequence[str | int], values: Any) -> Any:
    """The config dataclass at a key path, or None."""
    hint: Any = Config
    for depth, part in enumerate(path):
        value = _value_at(path[: depth + 1], values)
        if get_origin(hint) in (dict, list):
            hint = _plain(get_args(hint)[-1], value)
        elif is_dataclass(hint) and part in _hints(hint):
            hint = _plain(_hints(hint)[part], value)
        else:
            return None
    return hint if is_dataclass(hint) else None


def _value_at(path: Sequence[str | int], values: Any) -> Any:
    for part in path:
        if isinstance(values, dict):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def is_inside(where: str, known: str) -> bool:
    """Whether the key path `where` is `known` or below it."""
    return where == known or where.startswith((f"{known}.", f"{known}["))


# ------------------------------------------------------------------------------------------------ what to do about it


def _suggest_key(parts: list[str], depth: int, known: list[str], values: dict[str, Any]) -> str:
    """The nearest key; for the name of a key of another section, that section."""
    typed = parts[depth]
    if depth == 0:
        if typed == "task" and len(parts) > 1:
            return "the values of a task are at tasks.NAME, for example tasks.rte.weight=2"
        # `taks=rte` means the group, `taks.rte.weight=2` the section.
        known = [name for name in known if name != "tasks"] + list(GROUPS_OF_TASKS) if len(parts) == 1 else known
    others = [member for member in _alternatives(parts[:depth]) if typed in _hints(member)]
    if others:
        key = "type" if parts[0] == "tasks" else "name"
        return f"only {key} {' or '.join(_tags(member, key)[0] for member in others)} has it; choices: {', '.join(sorted(known))}"
    if len(parts) == depth + 1 and parts[0] != "tasks":
        elsewhere = [path for path in _leaves() if path.rpartition(".")[2] == typed and path != ".".join(parts)]
        if elsewhere:
            return f"did you mean {' or '.join(elsewhere)}?"
    return suggest(typed, known)


def _alternatives(path: Sequence[str]) -> list[Any]:
    """The members of the union that stands at a key path, if one does."""
    hint = _hints(Config).get(path[0]) if path else None
    if len(path) == 2 and path[0] == "tasks":
        hint = get_args(get_args(hint)[0])[1]
    elif len(path) != 1 or path[0] == "tasks":
        return []
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else []


@cache
def _leaves() -> list[str]:
    """The dotted paths of all keys, with NAME for a task's name."""
    paths: dict[str, None] = {}

    def walk(hint: Any, prefix: str) -> None:
        if is_dataclass(hint):
            for name, inner in _hints(hint).items():
                paths[f"{prefix}{name}"] = None
                walk(inner, f"{prefix}{name}.")
        elif get_origin(hint) is dict and prefix == "tasks.":
            walk(get_args(hint)[1], "tasks.NAME.")
        elif get_origin(hint) in (Annotated, Union, UnionType):
            for part in get_args(hint):
                walk(part, prefix)

    walk(Config, "")
    return list(paths)


def _not_in_run(key: str, name: str, tasks: list[str]) -> Problem:
    close = nearest(name, tasks)
    return Problem(
        f"task '{name}' is not in the run",
        where=key,
        fix=(f"did you mean '{close}'? " if close else "") + "the run has: " + ", ".join(tasks),
    )


def _help(path: Sequence[str | int], values: Any) -> str:
    """The docstring under a field."""
    names = [part for part in path if isinstance(part, str)]
    section = _section_at(names[:-1], values) if names else None
    return docs(section).get(names[-1], "") if section else ""


@cache
def docs(section: type) -> dict[str, str]:
    """Field -> the docstring under it, for a config dataclass and what it is derived from."""
    texts: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if not is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                texts[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return texts
