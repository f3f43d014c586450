"""Choices and keys that were renamed. Typing the old name is an error that names the new one. A
saved run with the old name is read with the new one, so that it can be resumed and evaluated."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from mtlcli.errors import Problem

RENAMED = {"weighting": {"config": "conflict_free"}}
"""Section -> old name -> new name."""

FORMER_KEYS = {
    "sharing.form": "leave it out for columns, or type sharing=progressive_distill for distill"
}
"""A key that no longer exists -> what to type instead."""


def old_name(section: str, name: Any, where: str) -> Problem | None:
    """Return the problem of an old name, or None for any other name."""
    new = RENAMED.get(section, {}).get(name) if isinstance(name, str) else None
    if new is None:
        return None
    return Problem(f"'{name}' is now called '{new}'", where, f"type {section}={new}")


def take_new_names(saved: DictConfig) -> None:
    """Give a config of an earlier version the names that its choices have now."""
    values: Any = OmegaConf.to_container(saved)
    for section, names in RENAMED.items():
        held = values.get(section) if isinstance(values, dict) else None
        name = held.get("name") if isinstance(held, dict) else None
        if isinstance(name, str) and name in names:
            saved[section]["name"] = names[name]
    sharing = values.get("sharing") if isinstance(values, dict) else None
    if isinstance(sharing, dict) and sharing.get("name") == "progressive" and "form" in sharing:
        # Each form had a key that the other ignored.
        distills = saved.sharing.pop("form") == "distill"
        saved.sharing.pop("size" if distills else "strength", None)
        saved.sharing.name = "progressive_distill" if distills else "progressive"
