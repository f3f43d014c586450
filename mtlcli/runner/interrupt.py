"""Interruption: a signal asks the run to stop after the step it is in, once everything is saved. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Thread
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from mtlcli.errors import Interrupted

if TYPE_CHECKING:
    from mtlcli.runner.distributed import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What a scheduler that needs the machine back, a terminal, and a scheduler that warns beforehand send."""
FORWARDED = signal.SIGUSR2
"""How the launcher passes a Ctrl-C on: a terminal sends SIGINT to the ranks as well, and twice would mean at once."""


class Asked(Exception):
    """Raised inside an evaluation that is not worth finishing; carries nothing: ask the Interrupt."""


class Interrupt:
    """Within it, the first signal is remembered, and a second Ctrl-C leaves at once (an earlier checkpoint stays intact).

    Whoever holds it asks, where the run can stop with everything saved. Before there is anything to save, see `at_once`.
    """

    def __init__(self, *, launched: bool = False) -> None:
        """`launched`: this is a rank of our own launcher, which passes signals on."""
        self._number = 0
        self._launched = launched
        self._hasty = False
        self._pass_on: Callable[[int], None] = lambda number: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (*SIGNALS, *([FORWARDED] if self._launched else [])):
            ignored = self._launched and number == signal.SIGINT
            self._before[number] = signal.signal(number, signal.SIG_IGN if ignored else self._note)
        if self._launched:
            # The launcher holds back what comes while a rank cannot hear it yet.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [*SIGNALS, FORWARDED])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        number = signal.SIGINT if number == FORWARDED else number
        if self._number and number == signal.SIGINT:
            self._pass_on(signal.SIGKILL)
            os._exit(130)
        if not self._number:
            self._number = number
            self._pass_on(FORWARDED if number == signal.SIGINT else number)
        if self._hasty:
            self._hasty = False
            # No Exception: on the way out nothing may take it for a download that failed.
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a signal does not wait: nothing has been written yet. Raises Interrupted."""
        try:
            self._hasty = True
            if self._number:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            raise Interrupted(self._number) from None
        finally:
            self._hasty = False

    @contextmanager
    def passed_on(self, start: Callable[[], None], send: Callable[[int], None]) -> Iterator[None]:
        """Within it, this process is a launcher: `start` starts its ranks, `send` sends them a signal.

        What arrives before a rank can hear it is neither lost nor the end of the rank: a process inherits what is held back.
        """
        held = [*SIGNALS, FORWARDED]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
        try:
            start()
            self._pass_on = send
            if self._number:
                send(FORWARDED if self._number == signal.SIGINT else self._number)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield
        finally:
            self._pass_on = lambda number: None

    def asked(self, ranks: Ranks) -> int:
        """The signal that some rank has received, the same on every rank; 0 for none. Every rank calls it at the same place."""
        return ranks.most(self._number)


@cache
def leave_with(launcher: int) -> None:
    """End this process when the parent that launched it is gone: one that was killed can no longer end its ranks."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, name="launcher", daemon=True).start()
