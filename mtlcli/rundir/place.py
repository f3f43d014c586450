"""Whether a path that a user has typed is a run folder or a checkpoint, and what they may have
meant."""

from __future__ import annotations

from pathlib import Path

from mtlcli.errors import Problem
from mtlcli.registry import nearest

_WRITTEN = "give a folder that mtl train wrote, runs/<date>_<time>_..., or one of its checkpoints"


def run_path_problems(path: Path) -> list[Problem]:
    """Return a problem if a path cannot be a run folder or a checkpoint."""
    if (
        any((path / name).is_file() for name in ("config.yaml", "manifest.json"))
        or path.parent.name == "checkpoints"
    ):
        return []
    if not path.exists():
        there = path.parent.iterdir() if path.parent.is_dir() else ()
        close = nearest(path.name, [other.name for other in there if other.is_dir()])
        fix = f"did you mean {path.parent / close}?" if close else _WRITTEN
        return [Problem("there is no such folder", str(path), fix)]
    what = (
        "neither a run folder (looked for config.yaml) nor a checkpoint (looked for manifest.json)"
    )
    runs = path.glob("*/config.yaml") if path.is_dir() else ()
    newest = max(runs, key=lambda file: file.stat().st_mtime, default=None)
    fix = _WRITTEN if newest is None else f"the newest run in it is {newest.parent}"
    return [Problem(what, str(path), fix)]
