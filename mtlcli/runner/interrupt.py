"""Interruption: a signal asks the run to stop after the step it is in, once everything is saved."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from threading import Event, Thread
from types import FrameType, TracebackType
from typing import Any

from mtlcli.runner.distributed import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What a scheduler that needs the machine back, a terminal, and a scheduler that warns beforehand send."""
FORWARDED = signal.SIGUSR2
"""How the launcher passes a Ctrl-C on: a terminal sends SIGINT to the ranks as well, and twice would mean at once."""


class Asked(Exception):
    """Raised inside an evaluation that is not worth finishing; carries nothing: ask the Interrupt."""


class Interrupt:
    """Within it, the first signal is remembered, and a second Ctrl-C leaves at once (an earlier checkpoint stays intact)."""

    def __init__(self, *, forwarded: bool = False) -> None:
        """`forwarded`: this is a rank of a launcher that passes signals on."""
        self._number = 0
        self._forwarded = forwarded
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (*SIGNALS, *([FORWARDED] if self._forwarded else [])):
            ignored = self._forwarded and number == signal.SIGINT
            self._before[number] = signal.signal(number, signal.SIG_IGN if ignored else self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        number = signal.SIGINT if number == FORWARDED else number
        if self._number and number == signal.SIGINT:
            os._exit(130)
        self._number = self._number or number

    def asked(self, ranks: Ranks) -> int:
        """The signal that some rank has received, the same on every rank; 0 for none. Every rank calls it at the same place."""
        if ranks.world == 1:
            return self._number
        return ranks.most(self._number)

    def alone(self, ranks: Ranks) -> bool:
        """Whether the only rank was asked: where ranks do not meet, a run of several goes on to where they do."""
        return ranks.world == 1 and bool(self._number)


@contextmanager
def passing_on() -> Iterator[None]:
    """Within it, this process, the launcher, passes signals on to its ranks; a second Ctrl-C kills them and leaves."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    count = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += number == signal.SIGINT
        for child in active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGKILL if count > 1 else FORWARDED if number == signal.SIGINT else number)
        if count > 1:
            os._exit(130)

    for number in SIGNALS:
        signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_with_the_launcher() -> None:
    """End this process when its parent is gone: a launcher that was killed can no longer end its ranks."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, name="launcher", daemon=True).start()


@contextmanager
def ending_together(seconds: float) -> Iterator[None]:
    """Within it, once a child process has failed, the others are killed after `seconds`: one that is frozen heeds nothing else."""
    over = Event()

    def watch() -> None:
        known: set[BaseProcess] = set()
        while not over.wait(0.2):
            known |= set(active_children())
            if any(child.exitcode for child in known):
                over.wait(seconds)
                for child in known:
                    if child.exitcode is None:
                        child.kill()
                return

    watcher = Thread(target=watch, name="ranks", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
