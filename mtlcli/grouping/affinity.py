"""The affinities of tasks as runs tell them: measured while they trained, or estimated from the
gradients at their best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtlcli.disk import write_whole, writing
from mtlcli.errors import UserError

Affinity = dict[str, dict[str, float]]
"""How much each task helps each task, `from -> to`."""
FILE = "affinity.json"
"""The file of a run folder that keeps an estimate."""


def measured(runs: Sequence[Path]) -> Affinity:
    """Return the mean of the affinities that runs have measured (`logger.affinity`). Raises
    UserError where one has none."""
    found = []
    for run in runs:
        affinity = _read(run / "results.json").get("affinity")
        if affinity is None:
            fix = "type a smaller logger.affinity=N: it was never reached"
            raise UserError("the run has measured no affinity", str(run / "results.json"), fix)
        found.append(affinity["affinity"])
    return {
        one: {to: sum(each[one][to] for each in found) / len(found) for to in row}
        for one, row in found[0].items()
    }


def estimated(run: Path, say: Callable[[str], None]) -> Affinity:
    """Return the affinities that the surrogate estimates from a run, and keep them in its folder;
    an estimate that is there is read."""
    file = run / FILE
    if not file.is_file():
        from mtlcli.grouping.gradients import collect
        from mtlcli.grouping.surrogate import affinities

        found = affinities(collect(run, say), seed=0)
        with writing("the affinities", file, "then type the command again"):
            write_whole(file, json.dumps({"format": 1, "affinity": found}, indent=1) + "\n")
    affinity: Affinity = _read(file)["affinity"]
    return affinity


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "move the file away, and type the command again"
        raise UserError("the file cannot be read", str(file), fix) from error
