"""The versions of installed packages."""

from __future__ import annotations

from importlib import metadata


def torch_before(version: tuple[int, int]) -> bool:
    """Return whether the installed torch is older than `version`, without importing it."""
    return tuple(int(part) for part in metadata.version("torch").split(".")[:2]) < version
