"""Ranks on this machine: one process each, started here, watched here, and ended together.

A rank that is killed, ends early, fails or freezes takes the others with it: each waits for the
others in every step. Whose fault it was is told from what each of them said last.
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
from mtlcli.errors import Interrupted, Problem, RunError, UserError
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
"""What a rank runs: with the launcher's own search path, so that files in the user's folder are not
taken for modules."""


class Rank:
    """One rank, seen from the launcher."""

    def __init__(
        self, number: int, world: int, port: int, folder: RunFolder, order: Resumption | None
    ) -> None:
        self.number = number
        # A file, not a pipe: nobody has to read it for the rank to end.
        self._report = tempfile.TemporaryFile()  # noqa: SIM115
        # At first, it tells the rank what the run goes on with.
        self._report.write(json.dumps(asdict(order) if order else None).encode())
        self._report.flush()
        arguments = [str(folder.path.absolute()), str(self._report.fileno()), str(os.getpid())]
        environment: dict[str, Any] = {
            "RANK": number,
            "LOCAL_RANK": number,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
        }
        environment |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        # Rank 0 writes, so it shares the lock: when the launcher is killed, the folder stays taken
        # until it is gone, too.
        owner = folder.owner.descriptors if number == 0 else []
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, ":".join(sys.path), *arguments],
            env=os.environ | {key: str(value) for key, value in environment.items()},
            pass_fds=[self._report.fileno(), *owner],
        )
        self.pid = self._process.pid
        self.ended: float | None = None
        """When it was seen to have ended."""
        self.stopped = 0.0
        """Seconds since it was stopped (SIGSTOP), as far as the launcher itself was running; 0
        while it runs."""
        self.given_up = False
        """Whether it had to be killed, because the others had failed and it did not end."""
        self.said: dict[str, Any] = {}
        """Its last word: `done` with the results, `interrupted`, or `failed` with the problems."""

    def look(self, seconds: float) -> None:
        """Note whether it has ended, and what it has said, or whether it is stopped. `seconds`:
        time since the last look."""
        if self.ended is None and self._process.poll() is None:
            is_stopped = (
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
            )
            self.stopped = self.stopped + seconds if is_stopped else 0.0
        elif self.ended is None:
            self.ended = time.monotonic()
            self._report.seek(0)
            try:
                said = json.loads(self._report.read())
            except ValueError:
                said = None
            # Otherwise nothing, or cut short by a kill: the exit code tells.
            self.said = said if said and said.keys() & {"done", "interrupted", "failed"} else {}
            self._report.close()

    @property
    def failed(self) -> bool:
        """Whether it has ended without having done its part."""
        return self.ended is not None and not self.said.keys() & {"done", "interrupted"}

    def send(self, number: int) -> None:
        """Send it a signal if it still runs."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def give_up(self) -> None:
        """Kill it: its turn to end by itself is over."""
        self.given_up = True
        self.send(signal.SIGKILL)

    def blame(self) -> tuple[int, float]:
        """Orders the ranks that failed: own faults first, then those that did not answer, then
        those that lost a neighbour."""
        return 2 if self.said.get("neighbour") else 1 if self.given_up else 0, self.ended or 0.0

    def fault(self, timeout: float) -> list[Problem]:
        """Why it failed."""
        if self.said.get("neighbour"):
            # No other rank has said more. One that was slow for so long may have gone on since, and
            # found itself alone.
            lost = (
                f"lost another rank, or waited for it for longer than {timeout:g} s "
                "(runner.timeout)"
            )
            return [
                Problem(
                    f"{lost}: {self.said['failed'][0][0]}",
                    "",
                    "look for a rank that was stopped or starved; raise runner.timeout",
                )
            ]
        if self.said:
            return [Problem(*values) for values in self.said["failed"]]
        code = self._process.returncode
        if self.given_up:
            return [Problem(f"did not answer within {timeout:g} s (runner.timeout) and was killed")]
        if code < 0:
            return [Problem(f"was killed by {signal.Signals(-code).name}")]
        return [Problem(f"ended with exit code {code} before the run did")]


def launch(
    runner: Runner, folder: RunFolder, order: Resumption | None, interrupt: Interrupt
) -> dict[str, Any]:
    """Run `runner.devices` ranks to their end and return the results. `order`: what an earlier run
    goes on with.

    Raises RunError naming the rank that failed, and Interrupted when they stopped because a signal
    had asked for it.
    """
    from mtlcli.distributed.rendezvous import local_store

    # Held here, so that the ranks find one another at a port that is free for certain.
    store = local_store()
    ranks: list[Rank] = []

    def start() -> None:
        for number in range(runner.devices):
            ranks.append(Rank(number, runner.devices, store.port, folder, order))

    def send(number: int) -> None:
        for rank in ranks:
            rank.send(number)

    try:
        with interrupt.passed_on(start, send):
            _watch(ranks, runner.timeout)
    finally:
        send(signal.SIGKILL)
    failed = sorted((rank for rank in ranks if rank.failed), key=Rank.blame)
    if failed and failed[0].said.get("by_user"):
        raise UserError([Problem(*values) for values in failed[0].said["failed"]])
    if failed:
        raise _explained(failed[0], folder, runner.timeout)
    if "interrupted" in ranks[0].said:
        number, step = ranks[0].said["interrupted"]
        # The ranks know only what was passed on to them.
        raise Interrupted(interrupt.number or number, step, commands.resume(folder.path))
    results: dict[str, Any] = ranks[0].said["done"]
    return results


def _watch(ranks: list[Rank], timeout: float) -> None:
    """Return when all ranks have ended.

    A rank that is stopped for `timeout` seconds is killed: no other rank may be left to notice it.
    Once one has failed, the others are killed after a while: one that is stopped heeds nothing
    else.
    """
    until = None
    before = time.monotonic()
    while any(rank.ended is None for rank in ranks):
        now = time.monotonic()
        # When the launcher was stopped as well (Ctrl-Z), that time does not count.
        seconds, before = min(now - before, 1.0), now
        for rank in ranks:
            rank.look(seconds)
            if rank.stopped > timeout and not rank.given_up:
                rank.give_up()
        if until is None and any(rank.failed for rank in ranks):
            until = now + GRACE
        if until is not None and now > until:
            for rank in ranks:
                if rank.ended is None:
                    rank.give_up()
        time.sleep(0.05)


def _explained(rank: Rank, folder: RunFolder, timeout: float) -> RunError:
    who = f"rank {rank.number} (process {rank.pid} on {platform.node()})"
    saved = checkpoint.folders(folder.checkpoints)
    go_on = (
        f"go on from {saved[-1].name}: {commands.resume(folder.path)}"
        if saved
        else "nothing was saved yet: start again"
    )
    if "traceback" in rank.said:
        with folder.log.open("a", encoding="utf-8") as log:
            log.write(f"{who}:\n{rank.said['traceback']}")
        go_on += f" (the traceback is in {folder.log})"
    first, *others = rank.fault(timeout)
    where = first.where or str(folder.path)
    verb = " failed:" if rank.said and not rank.said.get("neighbour") else ""
    return RunError(
        [
            Problem(
                f"{who}{verb} {first.what}", where, f"{first.fix}; {go_on}" if first.fix else go_on
            ),
            *others,
        ]
    )
