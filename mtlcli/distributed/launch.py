"""The ranks of a run on this machine: one process each, which this module starts, watches and ends
together.

Ranks wait for one another in every step, so a rank that is killed, ends early, fails or freezes
stops all others. The reports of the ranks show which one was at fault.

torch's own launcher (`torch.distributed.launcher`, the elastic agent behind torchrun) is not used
here, although a user may start a run with torchrun. What it cannot do, with the test that shows it
(in `tests/crash/test_ranks.py`, unless another file is named):

- It looks at exit codes alone. A rank that ends with 0 before the run does counts as successful,
  and nobody notices that a rank is stopped: `test_a_fault_of_one_rank_ends_all` (ending, frozen),
  `test_two_ranks_that_are_both_stopped`.
- It blames the rank that failed first by the clock. That may be one that has only lost another
  rank: `test_a_fault_of_one_rank_ends_all`,
  `test_a_rank_that_woke_up_too_late_does_not_blame_the_one_that_waited`.
- A signal that comes while the ranks import their modules kills them instead of letting them save:
  `test_ranks_that_are_not_forked_and_never_get_past_their_imports`. A second Ctrl-C does not end
  the ranks, it only makes the agent wait for them again: `tests/crash/test_interrupted.py`,
  `test_a_second_ctrl_c_takes_the_ranks_along`.
- Its ranks inherit no open file and are not watched over by anything when it is killed. Here rank 0
  shares the lock of the run folder, and ranks end with their launcher:
  `test_a_killed_launcher_leaves_no_rank_and_the_folder_is_taken_while_one_lives`.
- Its store listens to the network: `test_ranks_of_one_machine_listen_to_that_machine_alone`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from typing import Any

from mtlcli.distributed.report import read_report
from mtlcli.distributed.signals import Interrupt
from mtlcli.errors import Problem, reported_problems

GRACE = 3.0
"""Seconds that ranks have to end by themselves, and to finish a save, once one of them has
failed."""


def run_ranks(
    command: list[str],
    count: int,
    interrupt: Interrupt,
    *,
    timeout: float,
    hand_over: str,
    descriptors: list[int],
) -> list[Rank]:
    """Run `count` ranks, processes of `command`, and return them when all have ended.

    A rank gets two more arguments: the descriptor of an open file, from which it reads `hand_over`
    and into which it then writes its report, and the process id of this launcher. `timeout`: the
    seconds that a rank may be stopped. `descriptors`: open files that rank 0 shares.
    """
    from mtlcli.distributed.rendezvous import local_store

    # The launcher serves the store, so that the port of the ranks' meeting is free for certain.
    store = local_store()
    ranks: list[Rank] = []

    def start() -> None:
        for number in range(count):
            shared = descriptors if number == 0 else []
            ranks.append(Rank(number, count, store.port, command, hand_over, shared))

    def send(number: int) -> None:
        for rank in ranks:
            rank.send(number)

    try:
        with interrupt.passed_on(start, send):
            _watch(ranks, timeout)
    finally:
        send(signal.SIGKILL)
    return ranks


def at_fault(ranks: list[Rank]) -> Rank | None:
    """Return the rank whose failure has ended the others; None when all have finished their
    part."""
    return min((rank for rank in ranks if rank.failed), key=Rank.failure_order, default=None)


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


class Rank:
    """A rank, as the launcher sees it."""

    def __init__(
        self,
        number: int,
        world_size: int,
        port: int,
        command: list[str],
        hand_over: str,
        descriptors: list[int],
    ) -> None:
        self.number = number
        # The report is a file, not a pipe, so that the rank can end without a reader.
        self._report_file = tempfile.TemporaryFile()  # noqa: SIM115
        self._report_file.write(hand_over.encode())
        self._report_file.flush()
        report = self._report_file.fileno()
        environment: dict[str, Any] = {
            "RANK": number,
            "LOCAL_RANK": number,
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        self._process = subprocess.Popen(
            [*command, str(report), str(os.getpid())],
            env=os.environ | {key: str(value) for key, value in environment.items()},
            pass_fds=[report, *descriptors],
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
        """The report of the rank, once it has ended."""

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
            self.report = read_report(self._report_file)
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
