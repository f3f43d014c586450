"""Turn plain values into a Config, and report all mistakes at once in plain words. Imports neither
torch nor hydra."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from mtlcli.config import METHODS, Config
from mtlcli.config.crosscheck import crosscheck
from mtlcli.config.missing import ONE_FILE
from mtlcli.config.nearest_key import suggest_key
from mtlcli.config.renamed import old_name
from mtlcli.config.schema import (
    QUOTE_NULL,
    QUOTE_NUMBERS,
    QUOTE_TRUTHS,
    TRUTHS,
    Path,
    alternatives,
    docs,
    dotted,
    has_upper_bound,
    is_inside,
    is_number,
    plain,
    section_at,
    tags,
    value_at,
)
from mtlcli.config.section import hints
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.registry import nearest, suggest

LARGEST = 99_999_999
"""The largest number allowed for a key without a bound of its own. It has eight digits, like the
step in the name of a checkpoint."""
SMALLER = "write a smaller number"


def validate(values: dict[str, Any]) -> Config:
    """Return the Config with these values. Raises UserError with all problems."""
    config, problems = check(values)
    if problems or config is None:
        raise UserError(problems)
    return config


def check(values: dict[str, Any]) -> tuple[Config | None, list[Problem]]:
    """Return the Config with these values, or None, and all their problems."""
    adapter = _adapter()
    tolerated = copy.deepcopy(values)
    problems = []
    refused: list[str] = []
    for path, what in _unwritable((), values):
        problems.append(Problem(what, dotted(path), _help(path, values)))
        _take_out(tolerated, path, "")
        refused.append(dotted(path))
    for path, value, largest in _too_large(values):
        _take_out(tolerated, path, "")
        refused.append(dotted(path))
        problems.append(
            Problem(
                f"must be at most {_number(largest)}, found {found(value)}",
                dotted(path),
                _help(path, values) or SMALLER,
            )
        )
    # Remove refused values and validate the rest again, so that one mistake does not hide another.
    for _ in range(3):
        try:
            config = adapter.validate_json(json.dumps(tolerated, default=str), strict=True)
        except ValidationError as error:
            entries = _one_each(
                [
                    (entry, _without_tags(entry["loc"], tolerated))
                    for entry in error.errors(include_url=False)
                ]
            )
            misspelt = _misspelt(entries, tolerated)
            # Build the messages before removing anything: which keys exist depends on their
            # neighbours, for example on a task's type.
            found_problems = [_problems_of(entry, path, tolerated) for entry, path in entries]
            for (entry, path), entry_problems in zip(entries, found_problems, strict=True):
                follows = (entry["type"] == "missing" and path in misspelt) or (
                    path == ("tasks",) and bool(values.get("tasks"))
                )
                for problem in [] if follows else entry_problems:
                    if not any(is_inside(problem.where, known) for known in refused):
                        problems.append(problem)
                _take_out(tolerated, path, entry["type"])
                refused += [*(problem.where for problem in entry_problems), dotted(path)]
        else:
            together = crosscheck(config, values)
            problems += [
                problem
                for problem in together
                if not any(is_inside(known, problem.where) for known in refused)
            ]
            return (None if problems else config), problems
    return None, problems


def check_key(key: str, values: dict[str, Any]) -> Problem | None:
    """Return what is wrong with a dotted key that a user wants to set in a run with these values,
    or None."""
    parts = key.split(".")
    hint: Any = Config
    for depth, part in enumerate(parts):
        here = value_at(parts[:depth], values)
        if hint is Any:
            return None
        if get_origin(hint) is dict:
            if parts[:depth] == ["tasks"] and part not in here:
                return _not_in_run(key, part, list(here))
            if parts[:depth] == ["stages"] and part not in here and len(parts) > 2:
                return Problem(f"there is no stage '{part}'", key, suggest(part, here))
            hint = plain(get_args(hint)[1], value_at(parts[: depth + 1], values))
            continue
        if not is_dataclass(hint):
            return Problem(
                f"'{'.'.join(parts[:depth])}' is a single value and has no keys",
                where=key,
                fix=_help(parts[:depth], values),
            )
        known = list(hints(hint))
        if part not in known:
            return Problem(
                f"unknown key '{part}'", where=key, fix=suggest_key(parts, depth, known, values)
            )
        hint = plain(hints(hint)[part], value_at(parts[: depth + 1], values))
    return None


def found(value: Any) -> str:
    """Return a value as messages show it, shortened."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a number of more than 300 digits"
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------------------
# pydantic's errors in words


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


def _problems_of(error: Any, path: Path, values: dict[str, Any]) -> list[Problem]:
    """One of pydantic's errors in plain words: one problem, or several where a section cannot be
    told apart for wrong keys."""
    if error["type"] == "union_tag_not_found":
        return _untagged(error["ctx"]["discriminator"].strip("'"), path, values)
    return [_in_words(error, path, values)]


def _untagged(key: str, path: Path, values: dict[str, Any]) -> list[Problem]:
    """Return the problems of a section without the key that chooses its kind: the missing key,
    unless it is misspelt, and all keys that no kind of the section has."""
    where, members = dotted(path), alternatives([str(part) for part in path])
    known = {name for member in members for name in hints(member)}
    given = value_at(path, values)
    unknown = [name for name in given if name not in known] if isinstance(given, dict) else []
    problems = [
        Problem(f"unknown key '{name}'", f"{where}.{name}", suggest(name, known))
        for name in unknown
    ]
    if not any(nearest(name, known) == key for name in unknown):
        choices = sorted(tag for member in members for tag in tags(member, key))
        problems.append(
            Problem("must be given", f"{where}.{key}", "choices: " + ", ".join(choices))
        )
    return problems


def _misspelt(entries: list[tuple[Any, Path]], values: dict[str, Any]) -> set[Path]:
    """The keys that unknown keys most likely stand for: that these are missing is the same
    mistake."""
    found: set[Path] = set()
    for entry, path in entries:
        section = (
            section_at(path[:-1], values)
            if entry["type"] == "unexpected_keyword_argument"
            else None
        )
        meant = nearest(str(path[-1]), hints(section)) if section is not None else None
        if meant is not None:
            found.add((*path[:-1], meant))
    return found


def _in_words(error: Any, path: Path, values: dict[str, Any]) -> Problem:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    where = dotted(path)
    if kind == "unexpected_keyword_argument":
        parts = [str(part) for part in path]
        section = section_at(path[:-1], values)
        known = list(hints(section)) if section else []
        return Problem(
            f"unknown key '{parts[-1]}'", where, suggest_key(parts, len(parts) - 1, known, values)
        )
    if path == ("tasks",) and kind in ("missing", "too_short"):
        return Problem(
            "the run has no task",
            "task",
            "choose some, for example task=rte or 'task=[cola,rte]'; mtl tasks lists them",
        )
    if kind == "missing":
        return Problem("must be given", where, _help(path, values))
    if kind == "literal_error":
        what = (
            f"must be {error['or'][0]} or a word, found {found(value)}"
            if error["or"]
            else f"{found(value)} is not one of its values"
        )
        known = _quoted(context["expected"])
        fix = suggest(str(value), known)
        quote = isinstance(value, bool) and not set(TRUTHS).isdisjoint(known)
        return Problem(what, where, f"{QUOTE_TRUTHS}; {fix}" if quote else fix)
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        return old_name(where, context["tag"], f"{where}.{key}") or Problem(
            f"unknown {key} '{context['tag']}'",
            f"{where}.{key}",
            suggest(context["tag"], _quoted(context["expected_tags"])),
        )
    if kind == "too_short":
        least = count_of(context["min_length"], "entry", "entries")
        return Problem(f"needs at least {least}, found {found(value)}", where, _help(path, values))
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return Problem(
            f"must be {words} {_number(context[key])}, found {found(value)}",
            where,
            _help(path, values),
        )
    if kind in KINDS:
        fix = _help(path, values)
        if kind in ("dict_type", "dataclass_type"):
            fix = _keys_of(path, values)
        elif (typed := _meant(kind, value)) is not None:
            fix = f"write {typed}"
        elif kind == "string_type" and isinstance(value, bool):
            fix = QUOTE_TRUTHS
        elif kind == "string_type" and isinstance(value, (int, float)):
            fix = QUOTE_NUMBERS
        elif kind == "string_type" and value is None and isinstance(path[-1], int):
            fix = QUOTE_NULL
        elif (
            kind == "string_type"
            and isinstance(value, list)
            and path[:1] == ("tasks",)
            and path[2:4] == ("source", "files")
        ):
            fix = f"a split is read from one file: {ONE_FILE}"
        return Problem(f"must be {KINDS[kind]}, found {found(value)}", where, fix)
    return Problem(
        f"{error['msg'][0].lower()}{error['msg'][1:]}, found {found(value)}",
        where,
        _help(path, values),
    )


def _meant(kind: str, value: Any) -> str | None:
    """Return what a value of the wrong type most likely means, or None: 10 for `1e1` and for `"10"`
    in quotes."""
    if kind in ("int_type", "int_from_float") and isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if (
        kind == "int_type"
        and isinstance(value, str)
        and (several := re.fullmatch(r"(\d{1,9})(?:\.\.\.?|-|:)(\d{1,9})", value))
    ):
        return (
            f"range({several[1]},{int(several[2]) + 1}), in quotes for the shell, and add -m: a "
            "sweep over these numbers"
        )
    pattern = {
        "int_type": r"[+-]?\d+",
        "float_type": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
        "bool_type": "true|false",
    }.get(kind)
    return (
        f"{value} without quotes"
        if pattern and isinstance(value, str) and re.fullmatch(pattern, value)
        else None
    )


def _keys_of(path: Path, values: Any) -> str:
    """Return the fix where a section is needed: set its keys, or remove the task."""
    where, section = dotted(path), section_at(path, values)
    members = alternatives([str(part) for part in path])
    if members and path[0] != "tasks":
        return (
            f"choose one by name, {where}.name: "
            f"{', '.join(sorted(tag for member in members for tag in tags(member, 'name')))}"
        )
    if members:
        return (
            f"to leave the task out type ~{where}; to change it give one of its keys, as "
            f"{where}.weight=2"
        )
    return (
        f"give its keys, as {where}.KEY=VALUE: {', '.join(sorted(hints(section)))}"
        if section
        else _help(path, values)
    )


def _number(value: float) -> str:
    """Return a bound as a user would type it."""
    return (
        str(int(value))
        if isinstance(value, int) or (value.is_integer() and value < 1e15)
        else f"{value:g}"
    )


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _without_tags(location: Path, values: Any) -> Path:
    """Return the key path of an error without the parts that pydantic adds for the chosen member of
    a union."""
    tagged = 2 if location[0] == "tasks" else 1 if location[0] in METHODS else len(location)
    path = location[:tagged] + location[tagged + 1 :]
    value: Any = values
    for depth, part in enumerate(path):
        if isinstance(value, list) and not isinstance(part, int):
            return path[:depth] + path[depth + 1 :]
        if not isinstance(value, (dict, list)):
            return path[:depth]
        if isinstance(value, dict) and part not in value:
            return (
                path[:depth] + path[depth + 1 :]
                if re.match(r"(list|dict|literal)\[", str(part))
                else path
            )
        value = value[part]  # type: ignore[index]
    return path


def _one_each(entries: list[tuple[Any, Path]]) -> list[tuple[Any, Path]]:
    """Keep one error for each value.

    For `Literal | number`, pydantic reports one error per member. For a string keep the literal
    error, with the alternatives in `or`; for any other value keep the type error. For a list or a
    section with a mistake inside, keep the errors inside.
    """
    kept = []
    for entry, path in entries:
        others = [
            other for other, place in entries if other is not entry and place[: len(path)] == path
        ]
        if entry["type"] in ("list_type", "dict_type") and any(
            place[: len(path)] == path != place for _, place in entries
        ):
            continue  # The type is right, and the mistake is inside.
        if entry["type"] == "literal_error":
            if not others or isinstance(entry["input"], str):
                kinds = [KINDS[other["type"]] for other in others if other["type"] in KINDS]
                kept.append(({**entry, "or": kinds}, path))
        elif not (
            isinstance(entry["input"], str)
            and any(other["type"] == "literal_error" for other in others)
        ):
            kept.append((entry, path))
    return kept


def _take_out(values: Any, path: Path, kind: str) -> None:
    """Remove a refused value, so that its default applies; if it has none, remove the section
    around it."""
    if kind in ("missing", "union_tag_not_found", "union_tag_invalid") or len(path) == 1:
        if path[0] == "tasks" and len(path) > 1:
            path = path[:2]
        else:
            values.pop(path[0], None)
            defaults = {
                "sharing": "hard",
                "weighting": "static",
                "sampling": "proportional",
                "augmentation": "none",
                "optim": "adamw",
            }
            if path[0] in defaults:
                values[path[0]] = {"name": defaults[str(path[0])]}
            return
    # Remove a whole list, not one entry: the later ones would move up.
    path = path[
        : next((index for index, part in enumerate(path) if isinstance(part, int)), len(path))
    ]
    holder = value_at(path[:-1], values)
    if isinstance(holder, dict):
        holder.pop(path[-1], None)


def _unwritable(path: Path, value: Any) -> Iterator[tuple[Path, str]]:
    """Yield the places of values that JSON or UTF-8, the formats of the run folder, cannot express,
    and what is wrong with each."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unwritable((*path, key), inner)
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"must be a finite number, found {value}"
    elif isinstance(value, str) and not _is_utf8(value):
        yield path, f"must be text in UTF-8, found {ascii(value)}"


def _is_utf8(text: str) -> bool:
    """Return whether a text can be encoded: half a surrogate pair, as from YAML's "\\ud800",
    cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_large(values: dict[str, Any]) -> Iterator[tuple[Path, float, int]]:
    """Yield the place and value of each absurdly large number whose key has no upper bound, with
    the largest number allowed."""
    for place in _numbers((), values):
        number, names = value_at(place, values), [part for part in place if isinstance(part, str)]
        section = section_at(names[:-1], values)
        hint = hints(section).get(names[-1]) if section else None
        if abs(number) > LARGEST and (
            hint is None or (is_number(hint) and not has_upper_bound(hint))
        ):
            yield place, number, LARGEST


def _numbers(path: Path, value: Any) -> Iterator[Path]:
    """Yield the places of all finite numbers."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers((*path, key), inner)
    elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        yield path


# ------------------------------------------------------------------------------------------------
# what to do about it


def _not_in_run(key: str, name: str, tasks: list[str]) -> Problem:
    close = nearest(name, tasks)
    return Problem(
        f"task '{name}' is not in the run",
        where=key,
        fix=(f"did you mean '{close}'? " if close else "") + "the run has: " + ", ".join(tasks),
    )


def _help(path: Sequence[str | int], values: Any) -> str:
    """Return the docstring below a field."""
    names = [part for part in path if isinstance(part, str)]
    section = section_at(names[:-1], values) if names else None
    if section is None and len(names) > 1:  # A value of a mapping with free keys.
        section, names = section_at(names[:-2], values), names[:-1]
    return docs(section).get(names[-1], "") if section else ""
