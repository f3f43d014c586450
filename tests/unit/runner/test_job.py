"""What a run folder holds before the first step."""

from __future__ import annotations

from pathlib import Path

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.distributed.signals import Interrupt
from mtlcli.runner.job import begin


def test_the_log_has_the_notes_of_the_command_line(tmp_path: Path) -> None:
    options = [
        *(
            "task=rte",
            "data=sample",
            "model=tiny",
            "data.max_train_rows=40",
            "logger.console=plain",
        ),
        "tasks.rte.splits.calibration.fraction=0.2",
    ]
    plan = preflight(read_arguments(options))
    (note,) = [line for line in plan.notices if "calibration only keeps rows" in line]
    with Interrupt() as interrupt:
        begin(plan.configs[0], tmp_path / "run", ["mtl"], False, None, interrupt)
    assert (tmp_path / "run" / "log.txt").read_text().count(note) == 1
