"""A guessed task, and what several rules ask of a column."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mtlcli.data.table import ID_COLUMNS
from mtlcli.prepare.guess.profile import Profile

CODE = re.compile(r"[A-Za-z0-9_.:/+#-]{1,64}")


@dataclass
class Guess:
    """A task that the rows may be meant for."""

    type: str
    columns: dict[str, Any]
    """Key of the task's section `columns` -> column, or list of columns."""
    why: str
    """The reason for the type."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Key of `columns`, or of the task -> the reason for its value."""
    labels: list[str] | None = None
    """The classes, in their order."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further keys of the task."""
    others: dict[str, list[str]] = field(default_factory=dict)
    """Key of `columns` -> columns that could have this role instead."""
    group: str | None = None
    """The column whose rows belong together, and are held out together."""
    types: list[str] = field(default_factory=list)
    """What else the task could be, each a line of YAML and its meaning."""


def is_id(column: Profile) -> bool:
    """Return whether a column seems to number or name the rows."""
    name = column.name.casefold()
    plain = name.strip("_").replace("-", "_")
    named = (
        plain in (*ID_COLUMNS, "index", "uuid", "guid", "key", "unnamed: 0", "row", "nr", "no")
        or plain.endswith("_id")
        or plain.startswith(("index_level_", "id_"))
    )
    each_once = column.distinct == len(column.values)
    if column.consecutive or (named and (each_once or column.kind == "whole")):
        return True
    # Single words of letters without meaning; a text in Chinese has no blanks either.
    return (
        each_once
        and column.kind == "text"
        and column.rows > 5
        and all(CODE.fullmatch(str(value).strip()) for value in column.values)
    )
