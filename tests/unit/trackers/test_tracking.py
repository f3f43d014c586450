"""Which process tracks a run, and what stands in the way without stopping it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.config import Config
from mtlcli.rundir.console import Console
from mtlcli.rundir.folder import RunFolder
from mtlcli.trackers.tracking import Tracking


def tracked(folder: Path, *, main: bool, step: int | None) -> None:
    """Begin and end a tracked run in a folder, as one rank."""
    config: Config = preflight(read_arguments(["task=rte", "data=sample"])).configs[0]
    config = replace(config, logger=replace(config.logger, trackers=["csv"]))
    with Console("plain", folder / "log.txt", silent=not main) as console:
        tracking = Tracking(RunFolder(folder), console, main=main)
        with tracking:
            tracking.begin(config, step)
            tracking.scores(5, {"split": "validation", "tasks": {}, "average": 0.5})


def test_only_the_first_rank_tracks(tmp_path: Path) -> None:
    tracked(tmp_path, main=False, step=None)
    assert list(tmp_path.iterdir()) == []
    tracked(tmp_path, main=True, step=None)
    assert (tmp_path / "csv" / "evaluations.csv").read_text() == "step,validation/average\n5,0.5\n"
    assert "csv" not in [thread.name for thread in threading.enumerate()]


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "trackers.json").write_text("{")
    tracked(tmp_path, main=True, step=3)
    said = (tmp_path / "log.txt").read_text()
    assert said.startswith(f"warning: no tracker follows the run: {tmp_path}/trackers.json: ")
    (tmp_path / "trackers.json").write_text('{"csv": 3}')
    tracked(tmp_path, main=True, step=3)
    assert (
        "the tracker csv failed, and the run goes on without it: "
        in (tmp_path / "log.txt").read_text()
    )
