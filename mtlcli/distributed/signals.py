"""Interruption: a signal asks the run to stop after the step it is in, once everything is saved.
Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from mtlcli.errors import Interrupted

if TYPE_CHECKING:
    from mtlcli.distributed.process_group import Ranks

SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGALRM),
)
"""Signals that ask the run to save and stop.

SIGTERM: a scheduler needs the machine. SIGINT: Ctrl-C. SIGHUP: the terminal or the ssh connection
is gone; it stays ignored where it was ignored at the start (nohup). SIGUSR1 and SIGUSR2: schedulers
warn of the end with them. SIGXCPU: the limit of CPU time (`ulimit -t`) is reached. SIGALRM: so is a
limit of time that was set with `alarm` before the program was started.
"""
AT_ONCE = signal.SIGQUIT
"""The signal that ends the run at once, without saving (Ctrl-\\ in a terminal)."""
FORWARDED = signal.SIGTERM
"""What a launcher sends its ranks for any of the signals: a terminal sends SIGINT to the ranks as
well."""
SHOW_CURSOR = b"\x1b[?25h\n"
"""A live view hides the cursor."""
REPEATED = 3.0
"""Seconds within which torchrun repeats a Ctrl-C that the terminal has sent to the ranks
already."""


class Asked(Exception):
    """Raised inside an evaluation that is not worth finishing; carries nothing: ask the
    Interrupt."""


class Interrupt:
    """Within it, the first signal is remembered; a second Ctrl-C, or SIGQUIT, ends the process at
    once.

    Whoever holds it asks, where the run can stop with everything saved. Before there is anything to
    save, see `at_once`.
    """

    def __init__(self, *, launched: bool = False) -> None:
        """`launched`: this is a rank of our own launcher, which passes signals on."""
        self.number = 0
        """The first signal that this process has received; 0: none."""
        self.before_leaving: Callable[[str, str], None] = lambda status, reason: None
        """Called with the status and its reason before the process ends at once: status.json is
        written."""
        self._since = 0.0
        self._launched = launched
        self._hasty = False
        self._pass_on: Callable[[int], None] = lambda number: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (*SIGNALS, AT_ONCE):
            # The launcher decides about the signals of a terminal.
            ignored = self._launched and number in (signal.SIGINT, AT_ONCE)
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, signal.SIG_IGN if ignored else self._note)
        if self._launched:
            # The launcher blocks signals until a rank has its handlers.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [*SIGNALS, AT_ONCE])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == AT_ONCE or (
            number == signal.SIGINT and self.number and not self._is_repeated()
        ):
            self._leave(number)
        if not self.number:
            self.number = number
            self._since = time.monotonic()
            self._pass_on(FORWARDED)
        if self._hasty:
            self._hasty = False
            # KeyboardInterrupt, so that library code that catches Exception (downloads) cannot
            # swallow it.
            raise KeyboardInterrupt

    def _is_repeated(self) -> bool:
        """Whether a second Ctrl-C may be the first one, passed on by torchrun."""
        return "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() < self._since + REPEATED

    def _leave(self, number: int) -> None:
        try:
            self._pass_on(signal.SIGKILL)
            reason = f"ended at once by {signal.Signals(number).name}, without saving"
            self.before_leaving("interrupted", reason)
            if os.isatty(1):
                os.write(1, SHOW_CURSOR)
        finally:
            os._exit(128 + number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it, a signal does not wait: nothing has been written yet. Raises Interrupted."""
        before, sys.unraisablehook = sys.unraisablehook, self._unraisable
        try:
            self._hasty = True
            if self.number:
                raise KeyboardInterrupt
            yield
            if self.number:  # A library has swallowed the exception.
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise Interrupted(self.number) from None
        finally:
            self._hasty = False
            sys.unraisablehook = before

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        """End the program when the signal came where Python loses the exception, as in the
        destructor of a library's object."""
        if what.exc_type is KeyboardInterrupt:
            os._exit(Interrupted(self.number).exit_code)
        sys.__unraisablehook__(what)

    @contextmanager
    def passed_on(self, start: Callable[[], None], send: Callable[[int], None]) -> Iterator[None]:
        """Within it, this process is a launcher: `start` starts its ranks, `send` sends them a
        signal.

        Signals are blocked meanwhile, and a process inherits that: one that arrives before a rank
        has its handlers stays pending.
        """
        held = [*SIGNALS, AT_ONCE]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
        try:
            start()
            self._pass_on = send
            if self.number:
                send(FORWARDED)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield
        finally:
            self._pass_on = lambda number: None

    def asked(self, ranks: Ranks) -> int:
        """The signal that some rank has received, the same on every rank; 0 for none. Every rank
        calls it at the same place."""
        return ranks.all_reduce_max(self.number)

    @contextmanager
    def leaving_with(self, launcher: int) -> Iterator[None]:
        """Within it, this process ends when its parent `launcher` is gone: one that was killed
        cannot end its ranks."""
        done = Event()

        def watch() -> None:
            while not done.wait(1):
                if os.getppid() != launcher:
                    try:
                        self.before_leaving(
                            "failed", f"the launcher (process {launcher}) was killed"
                        )
                    finally:
                        os._exit(1)

        Thread(target=watch, name="launcher", daemon=True).start()
        try:
            yield
        finally:
            done.set()
