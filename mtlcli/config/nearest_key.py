"""The key that was meant by one that does not exist."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from mtlcli.config.renamed import FORMER_KEYS
from mtlcli.config.schema import (
    alternatives,
    leaves,
    plain,
    section_at,
    tags,
)
from mtlcli.config.section import hints
from mtlcli.registry import nearest, suggest

GROUPS_OF_TASKS = ("task", "experiment")
"""Configuration groups that are not sections of Config."""


def suggest_key(parts: list[str], depth: int, known: list[str], values: dict[str, Any]) -> str:
    """Suggest the nearest key, or the section that has a key of this name."""
    if former := FORMER_KEYS.get(".".join(parts[: depth + 1])):
        return former
    typed = parts[depth]
    if depth == 0:
        if typed == "task" and len(parts) > 1:
            return "the values of a task are at tasks.NAME, for example tasks.rte.weight=2"
        # `taks=rte` means the group, `taks.rte.weight=2` the section.
        known = (
            [name for name in known if name != "tasks"] + list(GROUPS_OF_TASKS)
            if len(parts) == 1
            else known
        )
    members = alternatives(parts[:depth])
    close = nearest(typed, {name for member in members for name in hints(member)} | set(known))
    if close is not None and close not in known:
        key = "type" if parts[0] == "tasks" else "name"
        having = [tags(member, key)[0] for member in members if close in hints(member)]
        return _other_kinds(parts[0], close, typed, having, known)
    if having := _types_with(parts[: depth + 1]):
        return _other_kinds("tasks", typed, typed, having, known)
    if (
        parts[0] == "tasks"
        and parts[2:depth] == ["source"]
        and typed in ("train", "validation", "test")
    ):
        return f"did you mean {'.'.join(parts[:depth])}.files.{typed}?"
    # Prefer a key of the same section: `columns.labels` most likely means `columns.label`, not the
    # `labels` of the task.
    beside = depth == 3 and close is not None
    elsewhere = _elsewhere(typed, values) if len(parts) == depth + 1 and not beside else []
    if not elsewhere and close is None and depth < 2:
        elsewhere = _elsewhere(
            nearest(typed, {path.rpartition(".")[2] for path in leaves()}) or "", values
        )
    if parts[0] == "tasks" and depth:
        elsewhere = [path.replace("tasks.NAME.", f"tasks.{parts[1]}.") for path in elsewhere]
    if close is not None and depth == 1 and all(path.startswith("tasks.") for path in elsewhere):
        return "; ".join([suggest(typed, known), *(f"{path} has that key" for path in elsewhere)])
    if elsewhere:
        others = (
            f" ({' and '.join(elsewhere[1:])} {'has' if len(elsewhere) == 2 else 'have'} the same "
            "name)"
            if elsewhere[1:]
            else ""
        )
        return f"did you mean {elsewhere[0]}?{others}"
    return suggest(typed, known)


def _types_with(parts: list[str]) -> list[str]:
    """Return the task types that have the key `tasks.NAME.SECTION.KEY`, for example in
    `columns`."""
    if len(parts) != 4 or parts[0] != "tasks":
        return []
    inner = {
        tags(member, "type")[0]: plain(hints(member).get(parts[2]), None)
        for member in alternatives(parts[:2])
    }
    return [
        kind
        for kind, section in inner.items()
        if is_dataclass(section) and parts[3] in hints(section)
    ]


def _other_kinds(section: str, name: str, typed: str, kinds: list[str], known: list[str]) -> str:
    """Say which other methods or task types have a key, and which keys the chosen one has."""
    meant = "" if name == typed else f"did you mean '{name}'? "
    listed = f"{', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else kinds[0]
    has = f"a task of type {listed}" if section == "tasks" else f"{section}={listed}"
    return f"{meant}only {has} has that key; choices here: {', '.join(sorted(known))}"


ORDER = (
    *("optim", "runner", "data", "logger", "model", "sharing", "weighting", "sampling"),
    "augmentation",
)
"""Sections in the order in which they are suggested for a key typed without one; tasks come last.
"""


def _elsewhere(name: str, values: dict[str, Any]) -> list[str]:
    """Return the paths of a key in the other sections of this run, the most likely first."""
    found = []
    for path in leaves():
        *section, last = path.split(".")
        if last == name and section:
            there = section_at(section, values)
            if section[0] == "tasks" or (there is not None and name in hints(there)):
                found.append(path)
    return sorted(
        found,
        key=lambda path: (
            ORDER.index(path.split(".")[0]) if path.split(".")[0] in ORDER else len(ORDER)
        ),
    )
