"""What a client asks: the body of a request is read strictly, and mistakes in it are explained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mtlcli.errors import Problem, UserError, count_of
from mtlcli.registry import suggest

KEYS = ("inputs", "task")
"""The keys of a request."""
NAMED = 20
"""The most problems that an answer names."""
DEEPEST = 20
"""The most lists and objects inside one another."""
LONGEST_NAME = 200
"""Characters of a name."""
EXAMPLE = '{"task": "NAME", "inputs": ["a text"]}'


@dataclass(frozen=True)
class Asked:
    """A request to predict."""

    inputs: list[Any]
    """Texts, lists of values, or objects with values by column."""
    task: str | list[str] | None
    """As in `mtlcli.predict.predictor.Predictor.predict`."""


class NotJson(UserError):
    """A body that is not JSON."""


def asked(body: bytes, *, rows: int, tasks: int) -> Asked:
    """Return what the body of a request asks. `rows`: the most inputs; `tasks`: the number of tasks
    that there are. Raises NotJson, and UserError for JSON of another form."""
    content = _parsed(body)
    if not isinstance(content, dict):
        raise UserError("the body is no JSON object", "body", f"send {EXAMPLE}")
    problems = [
        Problem(f"unknown key '{key}'", "body", suggest(key, KEYS))
        for key in [brief(key) for key in content if key not in KEYS][:NAMED]
    ]
    inputs, task = content.get("inputs"), content.get("task")
    if _deep(inputs):
        what = f"more than {DEEPEST} lists or objects are inside one another"
        raise UserError(what, "inputs", f"send {EXAMPLE}")
    if not isinstance(inputs, list):
        what = "is missing" if inputs is None else "is no list"
        problems.append(Problem(f"the key 'inputs' {what}", "inputs", f"send {EXAMPLE}"))
    elif len(inputs) > rows:
        what = f"{count_of(len(inputs), 'input')}, and a request may have {rows:,}"
        problems.append(Problem(what, "inputs", "send them in several requests"))
    else:
        problems += [
            Problem(
                "the input is neither a text, a list of values nor an object",
                f"inputs, row {number}",
                "send a text, the values of the task's columns in order, or an object with them",
            )
            for number, value in enumerate(inputs, start=1)
            if not isinstance(value, str | list | dict)
        ][:NAMED]
    if not (
        task is None
        or isinstance(task, str)
        or (isinstance(task, list) and task and all(isinstance(name, str) for name in task))
    ):
        fix = "send the name of a task, or a list of names; GET /tasks lists them"
        problems.append(
            Problem("the key 'task' is neither a name nor a list of names", "task", fix)
        )
    elif isinstance(task, list):
        task = list(dict.fromkeys(map(brief, task)))
        if len(task) > tasks:
            what = f"{count_of(len(task), 'task')} are named, and the model has {tasks}"
            problems.append(Problem(what, "task", "GET /tasks lists them"))
    elif task is not None:
        task = brief(task)
    if problems:
        raise UserError(problems)
    return Asked(inputs, task)  # type: ignore[arg-type]


def trimmed(inputs: Sequence[Any], columns: Iterable[str]) -> list[Any]:
    """Return inputs without the keys of objects inside columns that no column is named for:
    `translation.de` needs `de` of the column `translation`. A table of all of them may be far
    larger than the request."""
    keys = {part for column in columns for part in column.split(".")}
    return [
        {column: _kept(value, keys) for column, value in row.items()}
        if isinstance(row, dict)
        else _kept(row, keys)
        for row in inputs
    ]


def _kept(value: Any, keys: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _kept(inner, keys) for key, inner in value.items() if key in keys}
    return [_kept(inner, keys) for inner in value] if isinstance(value, list) else value


def _deep(value: Any) -> bool:
    """Return whether a value has more than DEEPEST lists and objects inside one another."""
    there = [value] if isinstance(value, list | dict) else []
    for _ in range(DEEPEST):
        there = [
            inner
            for each in there
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, list | dict)
        ]
    return bool(there)


def brief(name: str) -> str:
    """Return a name, cut where it is longer than any that exists could be: the nearest names are
    searched for it, and it is shown."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."


def failure(problems: Sequence[Problem]) -> Mapping[str, Any]:
    """Return the body of an answer about problems: the first one under `error`, further ones under
    `more`."""
    first, *more = (
        {"what": each.what, "where": each.where, "what to do": each.fix}
        for each in problems[:NAMED]
    )
    return {"error": first} | ({"more": more} if more else {})


def as_json(content: Any) -> bytes:
    """Return JSON in ASCII, since texts may hold half of a character that UTF-8 cannot. Raises
    ValueError for numbers that are not finite."""
    return json.dumps(content, allow_nan=False, default=str, separators=(",", ":")).encode()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} in line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError:
        reason = "its bytes are not UTF-8"
    except RecursionError:
        reason = "its lists or objects are nested too deeply"
    except ValueError as error:
        reason = str(error).partition(";")[0]
    raise NotJson(f"the body is not JSON: {reason}", "body", f"send {EXAMPLE}")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
