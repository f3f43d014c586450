"""The process of a rank that `mtlcli.runner.launch` starts: one rank's part of the run, and a
report about it."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mtlcli import garbage
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Interrupted, MtlError, RunError
from mtlcli.output import fill_closed, outlive_reader, show_any_text
from mtlcli.pulse import Pulse


def main() -> None:
    """Run one rank. The arguments are the run folder, the descriptor of the open file for the
    Resumption and the report, and the process id of the launcher."""
    run_dir, report, launcher = sys.argv[1:]
    garbage.at_start()
    fill_closed()
    show_any_text()
    outlive_reader("stdout", "stderr")
    # Install the handlers before anything heavy is imported: the training loop handles a signal
    # that comes meanwhile.
    with Interrupt(launched=True) as interrupt, interrupt.leaving_with(int(launcher)):
        outcome = _work(run_dir, interrupt, int(report))
    gc.freeze()  # As in mtlcli.__main__: the process ends sooner.
    sys.exit("failed" in outcome)


def _work(run_dir: str, interrupt: Interrupt, report: int) -> dict[str, Any]:
    outcome: dict[str, Any] = {}
    values = json.loads(os.pread(report, os.fstat(report).st_size, 0))

    def write_report(result: dict[str, Any]) -> None:
        # Report only the first outcome; errors while leaving the process group follow from it.
        if not outcome:
            outcome.update(result)
            os.ftruncate(report, 0)
            os.lseek(report, 0, os.SEEK_SET)
            with os.fdopen(report, "w", encoding="utf-8") as stream:
                json.dump(outcome, stream)

    try:
        from mtlcli.distributed.process_group import connect
        from mtlcli.rundir.folder import RunFolder
        from mtlcli.runner.job import config_of, work

        folder = RunFolder(Path(run_dir))
        # The launcher watches the ranks, so only an unusually long wait is worth a message.
        first = os.environ["RANK"] == "0"
        config = config_of(folder.path, values)
        with (
            Pulse(config.logger.console) if first else nullcontext(),
            connect(config.runner, quiet=30.0) as ranks,
        ):
            if ranks.is_main:
                folder.begun = values is None
                interrupt.before_leaving = folder.note_end
            # Report before leaving the process group, because leaving may wait for another rank.
            try:
                write_report({"done": work(folder, values, ranks, interrupt)})
            except Exception as error:  # noqa: BLE001 (the launcher shows it)
                write_report(_outcome_of(error))
    except Exception as error:  # noqa: BLE001
        write_report(_outcome_of(error))
    return outcome


def _outcome_of(error: Exception) -> dict[str, Any]:
    if isinstance(error, Interrupted):
        return {"interrupted": [error.number, error.step]}
    if isinstance(error, MtlError):
        return error.report()
    from mtlcli.distributed.process_group import is_lost_rank, lost_rank_text

    lost = is_lost_rank(error)
    failure = RunError(lost_rank_text(error) if lost else f"{type(error).__name__}: {error}")
    return failure.report() | {"lost_rank": lost, "traceback": traceback.format_exc()}
