"""The process of a rank that `mtlcli.runner.launch` starts: one rank's part of the run, and a
report about it."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from mtlcli import garbage
from mtlcli.distributed.report import Report
from mtlcli.distributed.signals import Interrupt
from mtlcli.output import fill_closed, outlive_reader, show_any_text
from mtlcli.pulse import Pulse


def main() -> None:
    """Run one rank. The arguments: the folder of the user's methods (or nothing), the run folder,
    the descriptor of the file for the Resumption and the report, the launcher's process id."""
    methods, run_dir, descriptor, launcher = sys.argv[1:]
    garbage.at_start()
    fill_closed()
    show_any_text()
    outlive_reader("stdout", "stderr")
    # Install the handlers before anything heavy is imported: the training loop handles a signal
    # that comes meanwhile.
    with Interrupt(launched=True) as interrupt, interrupt.leaving_with(int(launcher)):
        report = Report(int(descriptor))
        try:
            if methods:
                from mtlcli.config.own_code import import_folder

                import_folder(Path(methods))
            _work(Path(run_dir), report, interrupt)
        except Exception as error:  # noqa: BLE001 (the launcher shows it)
            report.write_error(error)
    if "failed" in report.outcome:
        # Without Python's own end, in which torch may wait for a rank that waits for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    gc.freeze()  # As in mtlcli.__main__: the process ends sooner.


def _work(run_dir: Path, report: Report, interrupt: Interrupt) -> None:
    from mtlcli.distributed.process_group import connect
    from mtlcli.rundir.folder import RunFolder
    from mtlcli.runner.job import config_of, join

    values = report.handed_over
    folder = RunFolder(run_dir)
    config = config_of(folder.path, values)
    with (
        Pulse(config.logger.console) if os.environ["RANK"] == "0" else nullcontext(),
        # The launcher watches the ranks, so only an unusually long wait is worth a message.
        connect(config.runner, quiet=30.0) as ranks,
    ):
        if ranks.is_main:
            folder.begun = values is None
            interrupt.before_leaving = folder.note_end
        # Report before leaving the process group, because leaving may wait for another rank.
        report.write({"done": join(folder, values, ranks, interrupt)})
