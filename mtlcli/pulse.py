"""What is being done just now, for a user who waits: a line that renews itself in a terminal, a
line from time to time elsewhere.

Any part of the program says what it does with `doing`, which costs nothing; nothing is shown unless
a `Pulse` beats. The time decides only when something is shown, never what is computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from rich.status import Status
from rich.text import Text

from mtlcli.errors import MtlError, count_of
from mtlcli.screen import screen

FIRST, LONGEST = 5.0, 60.0
"""Seconds of silence after which a plain line says what is being done, and the most between two
such lines: each wait is twice the last."""
BEAT = 0.25
"""Seconds between two looks at the clock."""
STILL = 10.0
"""Seconds between two looks, at the least, of which it is said that the process stood still."""
STOOD = (
    "note: the process stood still for {:.0f} s: it was stopped (SIGSTOP, Ctrl-Z) or got no "
    "processor"
)

_now: tuple[str, int, int, str] = ("", 0, 0, "")


def doing(what: str, done: int = 0, total: int = 0, of: str = "") -> None:
    """Note what is being done, `done` of `total` things, each called `of`; without `what`, that
    there is nothing to wait for."""
    global _now
    _now = what, done, total, of


def present() -> str:
    """What was noted last, as a line; empty when there is nothing to wait for."""
    what, done, total, of = _now
    return what + (f": {done:,} of {count_of(total, of)}" if what and total else "")


class Pulse:
    """Shows from time to time what is being done, in a thread of its own, until it is left."""

    def __init__(self, mode: str = "auto", *, stderr: bool = False) -> None:
        """`mode`: as `logger.console`. `stderr`: show it there, where the output is something
        else."""
        terminal = screen(stderr=stderr)
        live = mode == "live" or (mode == "auto" and terminal.is_terminal)
        self._status = Status("", console=terminal) if live else None
        self._paused = False
        self._say: Callable[[str], None] = lambda line: terminal.print(line, soft_wrap=True)
        self._spoken, self._wait = time.monotonic(), FIRST
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Pulse:
        global _pulse
        _pulse = self
        doing("")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _pulse
        _pulse = None
        doing("")
        self._left.set()
        self._thread.join()
        self._hide()

    def spoken(self) -> None:
        """Another line was shown: the next line of the pulse can wait."""
        self._spoken, self._wait = time.monotonic(), FIRST

    def through(self, say: Callable[[str], None]) -> None:
        """Plain lines go through `say` from now on."""
        self._say = say

    def pause(self, paused: bool) -> None:
        """While it is paused another view shows what is `present`."""
        with self._lock:
            self._paused = paused
            self._hide()

    def _run(self) -> None:
        clock, work = time.monotonic(), time.process_time()
        while not self._left.wait(BEAT):
            line = present()
            before, clock = clock, time.monotonic()
            worked, work = work, time.process_time()
            with self._lock:
                try:
                    # A call that keeps the interpreter for itself holds this thread up, too, but it
                    # works.
                    if line and clock - before >= max(STILL, 2 * (work - worked)):
                        self._say(STOOD.format(clock - before))
                    self._beat(line)
                except (MtlError, OSError):
                    # The output cannot be written: the next line of the run itself meets that too,
                    # and stops it.
                    return

    def _beat(self, line: str) -> None:
        if self._paused or not line:
            self._hide()
        elif self._status is not None:
            self._status.update(Text(line))
            self._status.start()
        elif time.monotonic() - self._spoken >= self._wait:
            wait = min(2 * self._wait, LONGEST)
            self._say(f"... {line}")
            self._spoken, self._wait = time.monotonic(), wait

    def _hide(self) -> None:
        if self._status is not None:
            self._status.stop()


_pulse: Pulse | None = None


def pulse() -> Pulse | None:
    """The pulse that beats in this process, if one does."""
    return _pulse
