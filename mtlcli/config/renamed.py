"""Choices that were given another name. Whoever types the old name is shown the new one; a saved
run that has the old name is read with the new one, so that it can be resumed and evaluated."""

from __future__ import annotations

from typing import Any

from mtlcli.errors import Problem

RENAMED = {"weighting": {"config": "conflict_free"}}
"""Section -> old name -> new name."""


def old_name(section: str, name: Any, where: str) -> Problem | None:
    """The problem that an old name is, or None for any other name."""
    new = RENAMED.get(section, {}).get(name) if isinstance(name, str) else None
    if new is None:
        return None
    return Problem(f"'{name}' is now called '{new}'", where, f"type {section}={new}")
