"""The ranks of a run on this machine: one process each, which this module starts, watches and ends
together.

Ranks wait for one another in every step, so a rank that is killed, ends early, fails or freezes
stops all others. The reports of the ranks show which one was at fault.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

from mtlcli import commands
from mtlcli.config.run import Runner
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Interrupted, Problem, RunError, UserError, reported_problems
from mtlcli.rundir import checkpoint
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.resume import Resumption

GRACE = 3.0
"""Seconds that ranks have to end by themselves, and to finish a save, once one of them has
failed."""
CODE = (
    "import sys; sys.path[:] = sys.argv.pop(1).split(':'); from mtlcli.runner.worker import "
    "main; main()"
)
"""The Python code of a rank. It uses the launcher's own search path, so that files in the user's
folder are not taken for modules."""


class Rank:
    """A rank, as the launcher sees it."""

    def __init__(
        self,
        number: int,
        world_size: int,
        port: int,
        folder: RunFolder,
        resumption: Resumption | None,
    ) -> None:
        self.number = number
        # The report is a file, not a pipe, so that the rank can end without a reader.
        self._report_file = tempfile.TemporaryFile()  # noqa: SIM115
        # Before the rank writes its report, the file hands it the Resumption.
        self._report_file.write(json.dumps(asdict(resumption) if resumption else None).encode())
        self._report_file.flush()
        descriptor = self._report_file.fileno()
        arguments = [str(folder.path.absolute()), str(descriptor), str(os.getpid())]
        environment: dict[str, Any] = {
            "RANK": number,
            "LOCAL_RANK": number,
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
        }
        environment |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        # Rank 0 writes into the folder, so it shares the lock: when the launcher is killed, the
        # folder stays locked until rank 0 has ended too.
        lock = folder.lock.descriptors if number == 0 else []
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, ":".join(sys.path), *arguments],
            env=os.environ | {key: str(value) for key, value in environment.items()},
            pass_fds=[descriptor, *lock],
        )
        self.pid = self._process.pid
        self.ended: float | None = None
        """The time at which the launcher noticed the end of the rank."""
        self.stopped = 0.0
        """Seconds since the rank was stopped (SIGSTOP), without the time in which the launcher
        itself was stopped; 0 while the rank runs."""
        self.killed_by_launcher = False
        """Whether the launcher has killed the rank, because it was stopped for too long or did not
        end after another rank had failed."""
        self.report: dict[str, Any] = {}
        """The report of the rank: `done` with the results, `interrupted`, or `failed` with the
        problems."""

    def update(self, seconds: float) -> None:
        """Update the state of the rank: whether it has ended, with which report, or whether it is
        stopped. `seconds`: the time since the last update."""
        if self.ended is None and self._process.poll() is None:
            is_stopped = (
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
            )
            self.stopped = self.stopped + seconds if is_stopped else 0.0
        elif self.ended is None:
            self.ended = time.monotonic()
            self._report_file.seek(0)
            try:
                report = json.loads(self._report_file.read())
            except ValueError:
                report = None
            # A rank that was killed has left no report, or part of one; its exit code then shows
            # the reason.
            self.report = (
                report if report and report.keys() & {"done", "interrupted", "failed"} else {}
            )
            self._report_file.close()

    @property
    def failed(self) -> bool:
        """Whether the rank has ended without finishing its part."""
        return self.ended is not None and not self.report.keys() & {"done", "interrupted"}

    def send(self, number: int) -> None:
        """Send the rank a signal if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the rank, whose time to end by itself is over."""
        self.killed_by_launcher = True
        self.send(signal.SIGKILL)

    def failure_order(self) -> tuple[int, float]:
        """Return the sorting key of a failed rank: first ranks with a fault of their own, then
        those that did not answer, then those that lost another rank; within each group by the time
        of the end."""
        group = 2 if self.report.get("lost_rank") else 1 if self.killed_by_launcher else 0
        return group, self.ended or 0.0

    def fault(self, timeout: float) -> list[Problem]:
        """Return the problems that ended the rank."""
        if self.report.get("lost_rank"):
            # No rank has reported a cause of its own. A rank that stalled past the timeout may have
            # resumed since, and lost the others.
            lost = (
                f"lost another rank, or waited for it for longer than {timeout:g} s "
                "(runner.timeout)"
            )
            return [
                Problem(
                    f"{lost}: {self.report['failed'][0][0]}",
                    "",
                    "look for a rank that was stopped or got no processor time, or raise "
                    "runner.timeout",
                )
            ]
        if self.report:
            return reported_problems(self.report)
        code = self._process.returncode
        if self.killed_by_launcher:
            return [Problem(f"did not answer within {timeout:g} s (runner.timeout) and was killed")]
        if code < 0:
            return [Problem(f"was killed by {signal.Signals(-code).name}")]
        return [Problem(f"ended with exit code {code} before the run did")]


def launch(
    runner: Runner, folder: RunFolder, resumption: Resumption | None, interrupt: Interrupt
) -> dict[str, Any]:
    """Run `runner.devices` ranks to their end and return the results. `resumption`: what the ranks
    need to resume a run; None for a new run.

    Raises UserError for a mistake of the user that a rank has found, RunError naming the rank that
    failed, and Interrupted when the ranks stopped because of a signal.
    """
    from mtlcli.distributed.rendezvous import local_store

    # The launcher serves the store, so that the port of the ranks' meeting is free for certain.
    store = local_store()
    ranks: list[Rank] = []

    def start() -> None:
        for number in range(runner.devices):
            ranks.append(Rank(number, runner.devices, store.port, folder, resumption))

    def send(number: int) -> None:
        for rank in ranks:
            rank.send(number)

    try:
        with interrupt.passed_on(start, send):
            _watch(ranks, runner.timeout)
    finally:
        send(signal.SIGKILL)
    failed = sorted((rank for rank in ranks if rank.failed), key=Rank.failure_order)
    if failed and failed[0].report.get("by_user"):
        raise UserError(reported_problems(failed[0].report))
    if failed:
        raise _explained(failed[0], folder, runner.timeout)
    if "interrupted" in ranks[0].report:
        number, step = ranks[0].report["interrupted"]
        # The launcher passes on another signal than the one it has received.
        raise Interrupted(interrupt.number or number, step, commands.resume(folder.path))
    results: dict[str, Any] = ranks[0].report["done"]
    return results


def _watch(ranks: list[Rank], timeout: float) -> None:
    """Wait until all ranks have ended.

    A rank that is stopped for `timeout` seconds is killed, because perhaps no other rank is left to
    notice. Once a rank has failed, the others are killed after GRACE seconds: a stopped rank reacts
    to nothing else.
    """
    until = None
    before = time.monotonic()
    while any(rank.ended is None for rank in ranks):
        now = time.monotonic()
        # Time during which the launcher was stopped as well (Ctrl-Z) does not count.
        seconds, before = min(now - before, 1.0), now
        for rank in ranks:
            rank.update(seconds)
            if rank.stopped > timeout and not rank.killed_by_launcher:
                rank.kill()
        if until is None and any(rank.failed for rank in ranks):
            until = now + GRACE
        if until is not None and now > until:
            for rank in ranks:
                if rank.ended is None:
                    rank.kill()
        time.sleep(0.05)


def _explained(rank: Rank, folder: RunFolder, timeout: float) -> RunError:
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
