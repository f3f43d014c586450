"""The table of what goes with what: task types in their forms, families of models, sharing
strategies, weightings and sampling policies.

The table has no list of its own. Each cell is the answer of the check that every run goes through
(`mtlcli/config/crosscheck/`) to a run of two tasks, whose methods have their default options.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args

from mtlcli.cli.groups import read_group
from mtlcli.config import Config, Model, Task, samplings, sharings, weightings
from mtlcli.config.crosscheck import crosscheck
from mtlcli.config.run import Family
from mtlcli.config.validate import validate
from mtlcli.errors import Problem

FAMILIES: tuple[Family, ...] = get_args(Family)
NEUTRAL = {"sharing": "hard", "weighting": "static", "sampling": "all"}
"""Methods that go with everything that any other goes with."""


@dataclass(frozen=True)
class Kind:
    """A task type in one of its forms, on a family of models."""

    type: str
    """The task type."""
    form: Literal["head", "text"] = "head"
    """The form."""
    family: Family = "encoder"
    """The family."""


def kinds() -> list[Kind]:
    """Return every type in every form on every family, including those that cannot be."""
    forms: tuple[Literal["head", "text"], ...] = ("head", "text")
    return [
        Kind(type, form, family) for form in forms for type in examples() for family in FAMILIES
    ]


@cache
def examples() -> dict[str, Task]:
    """Return a task of each type: the first one in conf/task/."""
    files = [file for file in read_group("task").values() if not file.suite]
    values: dict[str, Any] = {}
    for file in files:
        values.setdefault(file.values["type"], file.values | {"head": None})
    methods = {group: {"name": name} for group, name in NEUTRAL.items()}
    return dict(sorted(validate({"tasks": values, **methods}).tasks.items()))


def refusals(kind: Kind, **methods: str) -> list[Problem]:
    """Return why two tasks of a kind, NAME and OTHER, cannot be trained with some methods
    (`sharing`, `weighting`, `sampling`); the others are NEUTRAL. Empty: they can."""
    found = _problems(kind, NEUTRAL | methods)
    # What a method asks for in any run, such as a schedule, is no matter of combinations.
    for group, name in methods.items():
        alone = _problems(Kind("classification"), NEUTRAL | {group: name})
        found = [problem for problem in found if problem not in alone]
    return found


@cache
def _config(kind: Kind) -> Config:
    task = replace(examples()[kind.type], form=kind.form)
    return Config(
        tasks={"NAME": task, "OTHER": task},
        model=Model(kind="scratch", name=None, architecture=kind.family),
        sharing=sharings.configs[NEUTRAL["sharing"]](),
        weighting=weightings.configs[NEUTRAL["weighting"]](),
        sampling=samplings.configs[NEUTRAL["sampling"]](),
    )


def _problems(kind: Kind, methods: Mapping[str, str]) -> list[Problem]:
    registries = {"sharing": sharings, "weighting": weightings, "sampling": samplings}
    chosen = {group: registries[group].configs[name]() for group, name in methods.items()}
    return crosscheck(replace(_config(kind), **chosen), {})


# ------------------------------------------------------------------------------------------------
# the page


def tables() -> dict[str, list[str]]:
    """Return the lines of each table of docs/combinations.md by its name."""
    every = kinds()
    possible = [kind for kind in every if not refusals(kind)]
    usual = Kind("classification")
    shared, weighted, sampled = list(sharings), list(weightings), list(samplings)

    def with_kind(group: str) -> Callable[[str, Kind], list[Problem]]:
        return lambda name, kind: refusals(kind, **{group: name})

    def of_methods(one: str, other: str) -> Callable[[str, str], list[Problem]]:
        return lambda row, column: refusals(usual, **{one: row, other: column})

    return {
        "types": _types(every),
        "sharing": _grid("sharing", shared, possible, with_kind("sharing")),
        "weighting": _grid("weighting", weighted, possible, with_kind("weighting")),
        "sampling": _grid("sampling", sampled, possible, with_kind("sampling")),
        "pairs": _grid("weighting", weighted, shared, of_methods("weighting", "sharing")),
        "steps": _grid("weighting", weighted, sampled, of_methods("weighting", "sampling")),
        "draws": _grid("sampling", sampled, shared, of_methods("sampling", "sharing")),
    }


def _types(every: Sequence[Kind]) -> list[str]:
    """Return the table of types by form and family."""
    notes = _Notes()
    lines = [
        "| type | " + " | ".join(f"{form}, {name}" for form, name in _columns()) + " |",
        "|---" * (1 + len(_columns())) + "|",
    ]
    for type in examples():
        cells = [notes.cell(refusals(Kind(type, form, name)), type) for form, name in _columns()]
        lines.append(f"| `{type}` | " + " | ".join(cells) + " |")
    return [*lines, *notes.lines()]


def _columns() -> list[tuple[Literal["head", "text"], Family]]:
    return [(kind.form, kind.family) for kind in kinds() if kind.type == "classification"]


def _grid(
    group: str,
    rows: Sequence[str],
    columns: Sequence[Any],
    refused: Callable[[str, Any], list[Problem]],
) -> list[str]:
    """Return a table in which rows that are equal are one, and columns too."""
    notes = _Notes()
    cells = {
        (row, column): notes.cell(refused(row, column), row, column)
        for row in rows
        for column in columns
    }
    of_row = _alike(rows, lambda row: tuple(cells[row, column] for column in columns))
    of_column = _alike(columns, lambda column: tuple(cells[row, column] for row in rows))
    lines = [
        f"| `{group}=` | " + " | ".join(map(_names, of_column)) + " |",
        "|---" * (1 + len(of_column)) + "|",
    ]
    for same in of_row:
        line = [cells[same[0], columns[0]] for columns in of_column]
        lines.append(f"| {_names(same)} | " + " | ".join(line) + " |")
    return [*lines, *notes.lines()]


def _alike(members: Sequence[Any], key: Callable[[Any], Hashable]) -> list[list[Any]]:
    """Return the members in groups of equal keys, in the order of their first members."""
    groups: dict[Hashable, list[Any]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    return list(groups.values())


def _names(members: Sequence[Any]) -> str:
    """Return how a table names methods, or kinds, that have equal cells."""
    if not isinstance(members[0], Kind):
        return " ".join(f"`{name}`" for name in members)
    parts = []
    for same in _alike(members, lambda kind: (kind.form, _families(kind, members))):
        names = " ".join(f"`{name}`" for name in dict.fromkeys(kind.type for kind in same))
        families = _families(same[0], members)
        models = "every model" if families == FAMILIES else ", ".join(families)
        parts.append(f"{same[0].form} of {names} on {models}")
    return "; ".join(parts)


def _families(kind: Kind, members: Collection[Kind]) -> tuple[str, ...]:
    return tuple(name for name in FAMILIES if replace(kind, family=name) in members)


class _Notes:
    """The numbered reasons below a table."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def cell(self, problems: Sequence[Problem], *names: Any) -> str:
        """Return what stands in a cell. `names`: the methods or the type whose combination it is,
        which the reason then does not repeat."""
        numbers = set()
        for problem in problems:
            text = f"{problem.what} -> {problem.fix}"
            for name in names:
                text = text.replace(f"a {name} task", "a task of this type")
                for group in NEUTRAL:
                    text = text.replace(f"{group}={name} ", f"the {group} ")
            # Of two tasks with the same reason, the first is enough.
            if "OTHER" not in text + problem.where:
                numbers.add(self._numbers.setdefault(text, len(self._numbers) + 1))
        return ", ".join(map(str, sorted(numbers))) or "yes"

    def lines(self) -> Iterator[str]:
        """Yield the reasons as a list."""
        if self._numbers:
            yield ""
        for text, number in self._numbers.items():
            yield from textwrap.wrap(
                text,
                100,
                initial_indent=f"{number}. ",
                subsequent_indent="   ",
                break_long_words=False,
                break_on_hyphens=False,
            )
