"""Interruption: a signal asks the run to save everything and stop after the present step. This
module imports nothing heavy."""

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
is gone; the signal stays ignored where it was ignored at the start (nohup). SIGUSR1 and SIGUSR2:
schedulers send them shortly before the end. SIGXCPU: the limit of CPU time (`ulimit -t`) is
reached. SIGALRM: a time limit is reached that was set with `alarm` before the program was started.
"""
AT_ONCE = signal.SIGQUIT
"""The signal that ends the run at once, without saving (Ctrl-\\ in a terminal)."""
FORWARDED = signal.SIGTERM
"""The signal that a launcher sends to its ranks for any of these signals. Not SIGINT, which a
terminal sends to the ranks itself."""
SHOW_CURSOR = b"\x1b[?25h\n"
"""Bytes that show the cursor again, which a live view hides."""
REPEATED = 3.0
"""Seconds within which torchrun repeats a Ctrl-C that the terminal has sent to the ranks
already."""


class Asked(Exception):
    """Exception that ends an evaluation which is not worth finishing. It carries no data: the
    Interrupt knows the signal."""


class Interrupt:
    """Context that remembers the first signal; a second Ctrl-C, or SIGQUIT, ends the process at
    once.

    The holder calls `signal_received` wherever the run can stop with everything saved. Use
    `at_once` before there is anything to save.
    """

    def __init__(self, *, launched: bool = False) -> None:
        """`launched`: this is a rank of our own launcher, which passes signals on."""
        self.number = 0
        """The number of the first signal that this process has received; 0 for none."""
        self.before_leaving: Callable[[str, str], None] = lambda status, reason: None
        """Function that writes status.json, called with the status and its reason before the
        process ends at once."""
        self._since = 0.0
        self._launched = launched
        self._raises_at_once = False
        self._pass_on: Callable[[int], None] = lambda number: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in (*SIGNALS, AT_ONCE):
            # A launched rank ignores the signals of a terminal, because its launcher decides about
            # them.
            ignored = self._launched and number in (signal.SIGINT, AT_ONCE)
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, signal.SIG_IGN if ignored else self._note)
        if self._launched:
            # The launcher has blocked signals until this rank has its handlers.
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
        if self._raises_at_once:
            self._raises_at_once = False
            # KeyboardInterrupt, so that library code that catches Exception (downloads) cannot
            # swallow it.
            raise KeyboardInterrupt

    def _is_repeated(self) -> bool:
        """Return whether a second Ctrl-C may be the first one, passed on by torchrun."""
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
        """End the context at the first signal, because nothing has been written yet. Raises
        Interrupted."""
        before, sys.unraisablehook = sys.unraisablehook, self._unraisable
        try:
            self._raises_at_once = True
            if self.number:
                raise KeyboardInterrupt
            yield
            if self.number:  # A library has swallowed the KeyboardInterrupt.
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise Interrupted(self.number) from None
        finally:
            self._raises_at_once = False
            sys.unraisablehook = before

    def _unraisable(self, what: sys.UnraisableHookArgs) -> None:
        """End the program when the signal came where Python loses the exception, for instance in
        the destructor of a library's object."""
        if what.exc_type is KeyboardInterrupt:
            os._exit(Interrupted(self.number).exit_code)
        sys.__unraisablehook__(what)

    @contextmanager
    def passed_on(self, start: Callable[[], None], send: Callable[[int], None]) -> Iterator[None]:
        """Make this process a launcher inside the context: `start` starts its ranks, `send` sends
        them a signal.

        Signals are blocked during the start, and the ranks inherit that: a signal that arrives
        before a rank has its handlers stays pending.
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

    def signal_received(self, ranks: Ranks) -> int:
        """Return the number of a signal that some rank has received, the same on every rank; 0 for
        none. Every rank calls this at the same place."""
        return ranks.all_reduce_max(self.number)

    @contextmanager
    def leaving_with(self, launcher: int) -> Iterator[None]:
        """End this process inside the context when its parent `launcher` is gone: a launcher that
        was killed cannot end its ranks."""
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
