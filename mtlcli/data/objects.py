"""Reading of jsonl and json: objects become columns.

Python's json module reads the values. pyarrow.json is not used, since it reads no list of
objects and stops at the first faulty line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from mtlcli.data.delimited import text_lines
from mtlcli.data.parquet import repeats
from mtlcli.data.table import ID_COLUMNS, NAMED, others
from mtlcli.errors import Problem, UserError

Read = tuple[pa.Table, list[int] | None, list[str]]
"""The needed columns, the line of each row (None where messages number the rows), and the names of
all columns."""
ONCE = "write every key of an object once"
LIST = "write a list of objects, one for each row (with pandas: to_json(..., orient='records'))"


def read_jsonl(text: str, path: Path, columns: Sequence[str] | None) -> Read:
    """Read a text with one object on each line; a key that a line lacks is null there. A text that
    is SQuAD's published form on one line is read as `read_json` reads it. Raises UserError with the
    faulty lines."""
    lines: list[int] = []
    objects: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    broken: list[tuple[int, str]] = []
    no_objects: list[tuple[int, str]] = []
    doubled: list[tuple[int, str]] = []
    decoder = Decoder()
    for line, row in text_lines(text):
        if not row.strip():
            continue
        try:
            value = parsed(row, decoder)
        except ValueError as error:
            broken.append((line, f"broken JSON{error}"))
            continue
        if _is_squad(value):
            return read_json(row, path, columns)
        if isinstance(value, dict):
            names.update(dict.fromkeys(value))
            lines.append(line)
            objects.append(_needed(value, columns))
            if decoder.twice:
                doubled += [
                    (line, f"the object has the key '{key}' twice")
                    for _, key in islice(doubled_keys(value, columns), 1)
                ]
                decoder.twice = False
        else:
            no_objects.append((line, f"{row.strip()[:40]} is not an object"))
    if text.lstrip("\ufeff \r\n").startswith("[") and not objects:
        raise UserError(
            "the file is a JSON list",
            str(path),
            "let its name end in .json, or write its objects one per line",
        )
    problems = [
        Problem(
            wrong[0][1] + others([line for line, _ in wrong], len(wrong)),
            f"{path}, line {wrong[0][0]}",
            fix,
        )
        for wrong, fix in (
            (broken, "write one JSON object per line"),
            (no_objects, 'write {"column": value, ...} in each line'),
            (doubled, ONCE),
        )
        if wrong
    ]
    if problems:
        raise UserError(problems)
    return _table(objects, names, path, columns, lines), lines, _shown(names)


def read_json(text: str, path: Path, columns: Sequence[str] | None) -> Read:
    """Read a list of objects, which may be the value of a key in an object; an object of columns;
    SQuAD's published form, with a row for each question; or one object on each line. Raises
    UserError with the place of the fault."""
    decoder = Decoder()
    try:
        value = parsed(text, decoder)
    except ValueError as error:
        if len(text.splitlines()) > 1 and text.lstrip().startswith("{"):
            return read_jsonl(text, path, columns)
        raise UserError(f"broken JSON{error}", str(path), LIST) from error
    if _is_squad(value):
        if decoder.twice:
            _refuse_doubled(doubled_keys(value), path)
        rows: Any = list(_questions(value, path))
    else:
        rows = _rows(value)
    if not isinstance(rows, list):
        raise UserError("the file is one JSON value, not a list of rows", str(path), LIST)
    if not rows:
        raise UserError(
            "the file has no rows", str(path), "write rows into it, or name another file"
        )
    wrong = [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]
    if wrong:
        what = (
            f"{json.dumps(rows[wrong[0] - 1])[:40]} is not an "
            f"object{others(wrong, len(wrong), 'row')}"
        )
        raise UserError(what, f"{path}, row {wrong[0]}", LIST)
    if decoder.twice:
        if isinstance(value, _Doubled) and "data" in value.keys_twice:
            raise UserError("the object has the key 'data' twice", str(path), ONCE)
        _refuse_doubled(
            (
                (f"row {number}", key)
                for number, row in enumerate(rows, start=1)
                for _, key in doubled_keys(row, columns)
            ),
            path,
        )
    names = dict.fromkeys(name for row in rows for name in row)
    return (
        _table([_needed(row, columns) for row in rows], names, path, columns, None),
        None,
        _shown(names),
    )


def _rows(value: Any) -> Any:
    """Return the rows in a JSON value: the list itself; the only list of objects in an object, or
    the one named `data`; or the rows of an object of columns, each a list or, as pandas writes
    them, an object from row to value. Return any other value as it is."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("data"), list):
        return value["data"]
    lists = [
        each
        for each in value.values()
        if isinstance(each, list) and each and all(isinstance(row, dict) for row in each)
    ]
    if len(lists) == 1:
        return lists[0]
    columns = list(value.values())
    if not columns or isinstance(value, _Doubled):
        return value
    for kind in (list, dict):
        if all(isinstance(column, kind) for column in columns):
            keys = [range(len(column)) if kind is list else list(column) for column in columns]
            if len(keys[0]) and all(each == keys[0] for each in keys):
                return [{name: value[name][key] for name in value} for key in keys[0]]
    return value


def parsed(text: str, decoder: Decoder) -> Any:
    """Return the value of a JSON text. Raises ValueError with the fault and its place, worded as
    the end of a sentence."""
    try:
        return decoder.decode(text.lstrip("\ufeff"))
    except json.JSONDecodeError as error:
        place = (
            f"line {error.lineno}, character {error.colno}"
            if error.lineno > 1
            else f"character {error.pos + 1}"
        )
        raise ValueError(f" at {place}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(": its brackets are nested too deeply") from error
    except ValueError as error:  # Python refuses numbers with thousands of digits.
        raise ValueError(f": {error}") from error


class _Doubled(dict[str, Any]):
    """An object that has some keys more than once. Each of these keys has its last value."""

    keys_twice: list[str]


class Decoder:
    """A JSON decoder that notices keys that an object has more than once."""

    def __init__(self) -> None:
        self.twice = False
        """Whether an object that was read since this attribute was last set to False has a key more
        than once."""
        self.decode = json.JSONDecoder(object_pairs_hook=self._object).decode

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        plain = dict(pairs)
        if len(plain) == len(pairs):
            return plain
        self.twice = True
        doubled = _Doubled(plain)
        doubled.keys_twice = repeats(key for key, _ in pairs)
        return doubled


def doubled_keys(
    value: Any, columns: Sequence[str] | None = None, place: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield (place, key) for every key that an object within `value` has more than once. `columns`:
    the keys of `value` itself that are searched; None means all of them."""
    if isinstance(value, dict):
        for key in value.keys_twice if isinstance(value, _Doubled) else ():
            if columns is None or key in columns:
                yield place, key
        for key, inner in value.items():
            if columns is None or key in columns:
                yield from doubled_keys(inner, place=f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from doubled_keys(inner, place=f"{place}[{number}]")


def _refuse_doubled(found: Iterator[tuple[str, str]], path: Path) -> None:
    """Raise UserError with the first of the places that `doubled_keys` has found and the number of
    the others; do nothing if there is none."""
    for place, key in found:
        rest = sum(1 for _ in found)
        more = f" (and {rest:,} more)" if rest else ""
        raise UserError(
            f"the object has the key '{key}' twice{more}",
            f"{path}, {place}" if place else str(path),
            ONCE,
        )


def _needed(row: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    return (
        row
        if columns is None
        else {name: row[name] for name in (*columns, *ID_COLUMNS) if name in row}
    )


def _shown(names: dict[str, None]) -> list[str]:
    """Return the names in a form that can be printed: half a surrogate pair becomes a question
    mark."""
    return [name.encode(errors="replace").decode() for name in names]


def _is_squad(value: Any) -> bool:
    """Return whether a value has the form in which SQuAD is published: data, paragraphs, qas."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def _questions(value: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each question of SQuAD's published form. `answers` is None for a question
    without that key. Raises UserError with the place where the form is broken."""
    place = ""
    try:
        for a, article in enumerate(value["data"]):
            place = f"data[{a}]"
            for p, paragraph in enumerate(article["paragraphs"]):
                place = f"data[{a}].paragraphs[{p}]"
                for q, question in enumerate(paragraph["qas"]):
                    place = f"data[{a}].paragraphs[{p}].qas[{q}]"
                    row = {
                        "id": question["id"],
                        "title": article.get("title"),
                        "context": paragraph["context"],
                    }
                    yield row | {
                        "question": question["question"],
                        "answers": _answers(question.get("answers")),
                    }
    except (KeyError, TypeError, AttributeError) as error:
        what = f"SQuAD's form (data, paragraphs, qas) is broken: {type(error).__name__} {error}"
        fix = (
            "each paragraph has context and qas, each question id, question and answers with "
            "text and answer_start"
        )
        raise UserError(what, f"{path}, {place}", fix) from error


def _answers(answers: list[dict[str, Any]] | None) -> dict[str, list[Any]] | None:
    if answers is None:
        return None
    return {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}


def _table(
    objects: list[dict[str, Any]],
    names: dict[str, None],
    path: Path,
    columns: Sequence[str] | None,
    lines: list[int] | None,
) -> pa.Table:
    """Return the needed columns of the objects. `lines`: the line of each object; None means that
    messages number the rows. Raises UserError with every needed column whose values have no common
    type."""
    if not names:
        raise UserError(
            "the objects have no keys",
            str(path),
            "write one object of column names and values for each row",
        )
    problems = []
    arrays: dict[str, pa.Array] = {}
    for name in (
        names if columns is None else [name for name in (*columns, *ID_COLUMNS) if name in names]
    ):
        values = [row.get(name) for row in objects]
        try:
            arrays[name] = array_of(values)
        except UnicodeEncodeError:
            if columns is None or name in columns:
                problems.append(_half_pair(name, values, path, lines))
        except (ValueError, TypeError, OverflowError):
            if columns is None or name in columns:
                problems.append(_odd_value(name, values, path, lines))
    if problems:
        raise UserError(problems)
    return pa.table(arrays)


def array_of(values: list[Any]) -> pa.Array:
    """Return the values as a column. Raises ValueError, TypeError or OverflowError if the values
    have no common type."""
    array = pa.array(values)
    # Arrow turns true into 1.0 beside numbers with a decimal point, but raises an error beside
    # whole numbers.
    if pa.types.is_floating(array.type) and any(isinstance(value, bool) for value in values):
        raise TypeError("true or false among numbers")
    return array


def _place(path: Path, lines: list[int] | None, row: int) -> str:
    return f"{path}, row {row + 1}" if lines is None else f"{path}, line {lines[row]}"


def _half_pair(name: str, values: list[Any], path: Path, lines: list[int] | None) -> Problem:
    """Return the problem of the rows that hold half a surrogate pair, which cannot be written in
    UTF-8."""
    found: list[tuple[int, str]] = []
    for row, value in enumerate(values):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            found.append((row, f"\\u{ord(error.object[error.start]):04x}"))
    rows = [row for row, _ in found]
    numbers = [row + 1 if lines is None else lines[row] for row in rows[:NAMED]]
    more = others(numbers, len(rows), "row" if lines is None else "line")
    what = (
        f"column '{name}' holds half a surrogate pair, {found[0][1]}, which is no character{more}"
    )
    return Problem(
        what,
        _place(path, lines, rows[0]),
        "write both halves, or \\ufffd where the other half is lost",
    )


def first_odd(values: list[Any]) -> int:
    """Return the first value that does not fit those before it."""
    good, bad = 0, len(values)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            array_of(values[:middle])
            good = middle
        except (ValueError, TypeError, OverflowError):
            bad = middle
    return bad - 1


def _odd_value(name: str, values: list[Any], path: Path, lines: list[int] | None) -> Problem:
    """Return the problem of the first row whose value does not fit the type of the values before
    it."""
    odd = first_odd(values)
    shown = json.dumps(values[odd])
    kind = "line" if lines is not None else "row"
    what = (
        f"column '{name}': the value {shown[:60]} does not have the type of the {kind}s before it"
    )
    if not odd:
        what = f"column '{name}': the value {shown[:60]} cannot be read"
    return Problem(
        what, _place(path, lines, odd), f"give every {kind} a value of the same type, or null"
    )
