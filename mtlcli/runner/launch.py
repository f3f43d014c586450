"""The ranks of a run that this program launches itself: what they get, and what their end means for
the run."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from typing import Any

from mtlcli import commands
from mtlcli.config.own_code import imported_folder
from mtlcli.config.run import Runner
from mtlcli.distributed.launch import Rank, at_fault, run_ranks
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Interrupted, Problem, RunError, UserError, reported_problems
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.resume import Resumption

CODE = (
    "import sys; sys.path[:] = sys.argv.pop(1).split(':'); from mtlcli.runner.worker import "
    "main; main()"
)
"""The Python code of a rank. It uses the launcher's own search path, so that files in the user's
folder are not taken for modules."""


def launch(
    runner: Runner, folder: RunFolder, resumption: Resumption | None, interrupt: Interrupt
) -> dict[str, Any]:
    """Run `runner.devices` ranks to their end and return the results. `resumption`: what the ranks
    need to resume a run; None for a new run.

    Raises UserError for a mistake of the user that a rank has found, RunError naming the rank that
    failed, and Interrupted when the ranks stopped because of a signal.
    """
    methods = str(imported_folder() or "")
    ranks = run_ranks(
        [sys.executable, "-c", CODE, ":".join(sys.path), methods, str(folder.path.absolute())],
        runner.devices,
        interrupt,
        timeout=runner.timeout,
        hand_over=json.dumps(asdict(resumption) if resumption else None),
        # Rank 0 writes into the folder, so it shares the lock: when the launcher is killed, the
        # folder stays locked until rank 0 has ended too.
        descriptors=folder.lock.descriptors,
    )
    if (failed := at_fault(ranks)) is not None:
        if failed.report.get("by_user"):
            raise UserError(reported_problems(failed.report))
        raise _explained(failed, folder, runner.timeout)
    report = ranks[0].report
    if "interrupted" in report:
        number, step = report["interrupted"]
        # The launcher passes on another signal than the one it has received.
        raise Interrupted(interrupt.number or number, step, commands.resume(folder.path))
    return dict(report["done"])


def _explained(rank: Rank, folder: RunFolder, timeout: float) -> RunError:
    """Return the error that tells the user which rank failed, why, and how to go on."""
    who = f"rank {rank.number} (process {rank.pid} on {platform.node()})"
    saved = checkpoint.folders(folder.checkpoints)
    go_on = (
        f"go on from {saved[-1].name}: {commands.resume(folder.path)}"
        if saved
        else "nothing was saved yet: start again"
    )
    if "traceback" in rank.report:
        with folder.log.open("a", encoding="utf-8") as log:
            log.write(f"{who}:\n{rank.report['traceback']}")
        go_on += f" (the traceback is in {folder.log})"
    first, *others = rank.fault(timeout)
    where = first.where or str(folder.path)
    verb = " failed:" if rank.report and not rank.report.get("lost_rank") else ""
    return RunError(
        [
            Problem(
                f"{who}{verb} {first.what}", where, f"{first.fix}; {go_on}" if first.fix else go_on
            ),
            *others,
        ]
    )
