"""Problems with words on the command line that cannot be read: blanks, commas, quotes, and the
folder of `-cd`. This module does not import torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mtlcli.config.paths import conf_dir
from mtlcli.config.schema import kinds
from mtlcli.errors import Problem
from mtlcli.registry import nearest

READABLE = re.compile(r"[\w/\\+.$%*@?|:,\s\[\]{}()='\"-]", re.ASCII)
"""Characters that Hydra's grammar knows; all others must stand in quotes."""
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


def key_in(override: str) -> str:
    """Return the key of an override, without Hydra's signs before it."""
    return override.lstrip("+~").partition("=")[0]


def joined(words: list[str]) -> tuple[list[str], list[Problem]]:
    """Put the words of a command line together again where the shell has split them. Return the
    words and the problems with them."""
    found: list[str] = []
    problems = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "=" and found and "=" not in found[-1]:
            word = f"{found.pop()}="
        if rest and "=" not in rest[0] and word.endswith("="):
            whole = f"{word}{rest.pop(0)}"
            problems.append(
                Problem("there are blanks around the =", word.rstrip("="), f"type {whole}")
            )
            found.append(whole)
            continue
        count = (
            next((n for n in range(1, len(rest) + 1) if _open(" ".join([word, *rest[:n]])) == 0), 0)
            if _open(word) > 0
            else 0
        )
        if count:
            whole = " ".join([word, *rest[:count]])
            key = whole.partition("=")[0]
            what = f"the blanks in '{whole}' split it into several words"
            word = re.sub(r"(?<=[\[{,(])\s+|\s+(?=[\]},)])", "", whole)
            problems.append(Problem(what, key, f"put it in quotes: '{word}'"))
            rest = rest[count:]
        found.append(word)
    return found, problems


def _open(text: str) -> int:
    """Return the number of brackets that are opened in the value of `key=value` and not closed."""
    value = re.sub(r"'[^']*'|\"[^\"]*\"", "", text.partition("=")[2])
    return sum(value.count(bracket) for bracket in "[{(") - sum(
        value.count(bracket) for bracket in "]})"
    )


def quoted(text: str) -> str | None:
    """Return `key=value` with the value in Hydra's quotes, where the value is clearly one text;
    None where it may have another meaning."""
    key, equals, value = text.partition("=")
    return (
        f'{key}="{value}"' if equals and not re.search(r"[\[\]{}()=,'\"\\]|\$\{", value) else None
    )


def unreadable(text: str) -> Problem:
    """Return a problem with a `key=value` that cannot be read, with the way to type it."""
    key, _, value = text.partition("=")
    outside = re.sub(r"'[^']*'|\"[^\"]*\"", "", value)
    odd = next((character for character in outside if not READABLE.match(character)), None)
    if outside.count("'") or outside.count('"'):
        reason = "a quote is opened and not closed"
    elif _open(text):
        reason = (
            "a bracket is not closed"
            if _open(text) > 0
            else "a bracket is closed that was not opened"
        )
    elif odd or "=" in outside:
        reason = f"the character {odd or '='} must stand in quotes"
    else:
        reason = "its brackets, commas and quotes form neither a list nor a text"
    example = value if "'" not in value and '"' not in value else "..."
    return Problem(
        f"cannot read '{text}': {reason}",
        fix=f"for one text type the value in quotes that reach mtl: '{key}=\"{example}\"'",
    )


def without_value(word: str, before: str | None, homes: list[str]) -> Problem:
    """Return a problem with a word that is not `key=value`. `before`: the previous word; `homes`:
    groups that have a file of this name."""
    if homes:
        fix = f"did you mean {' or '.join(f'{group}={word}' for group in homes)}?"
        if "task" in homes and before is not None and before.startswith("task="):
            names = before.partition("=")[2].strip("[],")
            fix = f"several tasks are one list: 'task=[{names},{word}]'"
    elif before is not None and "=" in before:
        key, _, value = before.partition("=")
        fix = (
            f"if it belongs to the value before it, put both in quotes: '{key}=\"{value} {word}\"'"
        )
    else:
        fix = "give values as key=value"
    return Problem(f"'{word}' has no value", fix=fix)


def several(key: str, text: str, group: bool) -> Problem:
    """Return a problem with several values of a key outside of a sweep. `group`: whether the key
    chooses a file."""
    held = kinds(key)
    fix = "for a sweep add -m"
    if key == "task" or list in held:
        fix += f"; for one list: '{key}=[{text}]'" if not re.search(r"[()\[\]]", text) else ""
    elif not group and float in held and DECIMAL_COMMA.fullmatch(text):
        fix = f"for a decimal number write a point: {key}={text.replace(',', '.')}; {fix}"
    elif str in held:
        fix = f"for one text with a comma quote it: '{key}=\"{text}\"'; {fix}"
    return Problem(f"'{text}' is several values", key, fix)


def config_dir_problems(given: Path) -> list[Problem]:
    """Return a problem if the folder of `-cd` cannot be used."""
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    if given.is_file():
        folder = given.parent.parent if given.parent.name in groups else given.parent
        return [
            Problem(
                f"'{given}' is a file",
                "-cd",
                f"give the folder that holds the folder task/: -cd {folder}",
            )
        ]
    if not given.is_dir():
        near = given.parent.iterdir() if given.parent.is_dir() else []
        close = nearest(given.name, [path.name for path in near if path.is_dir()])
        fix = (
            f"did you mean '{given.parent / close}'?"
            if close
            else f"relative paths start from {Path.cwd()}"
        )
        return [Problem(f"there is no folder '{given}'", "-cd", fix)]
    if any((given / group).is_dir() for group in [*groups, "hydra", "metrics"]):
        return []
    if given.resolve().name in groups:
        parent = given.parent if given.name == given.resolve().name else given / ".."
        return [
            Problem(
                f"'{given}' is the folder of one group",
                "-cd",
                f"give the folder around it: -cd {parent}",
            )
        ]
    fix = (
        "put your files into folders named after the groups, as in "
        f"{given / 'task' / 'mine.yaml'}; groups: {', '.join(groups)}"
    )
    return [Problem(f"'{given}' contains no folder of a group", "-cd", fix)]


def broken_yaml(error: Any, path: Path | None = None) -> Problem:
    """Return an error of the YAML parser as a problem. `path`: the file, where the error does not
    name it."""
    mark = getattr(error, "problem_mark", None)
    name = path or (mark.name if mark else "")
    where = f"{name}, line {mark.line + 1}" if mark else str(name)
    reason = getattr(error, "problem", None) or str(error)
    return Problem(
        f"the file is not valid YAML: {reason}",
        where,
        "check the indentation, and put text with : or # in quotes",
    )
