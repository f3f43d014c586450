"""The present activity of the program, for a user who waits: a line that renews itself in a
terminal, a line from time to time elsewhere.

Any part of the program sets its activity with `doing`, which costs nothing; the activity is shown
only while a `Pulse` runs. The time decides only when a line is shown, never what is computed.

In a terminal, rich shows the line. The plain lines and the note about a process that stood still
are by hand, since rich shows nothing where there is no terminal.
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
"""Seconds of silence after which a plain line shows the activity, and the most seconds between two
such lines: each wait is twice as long as the last."""
BEAT = 0.25
"""Seconds between two looks at the clock."""
STILL = 10.0
"""The least number of seconds between two looks after which a line reports that the process stood
still."""
STOOD = (
    "note: the process stood still for {:.0f} s: it was stopped (SIGSTOP, Ctrl-Z) or got no "
    "processor"
)

_now: tuple[str, int, int, str] = ("", 0, 0, "")


def doing(what: str, done: int = 0, total: int = 0, of: str = "") -> None:
    """Set the present activity: `done` of `total` things, each called `of`. Without `what`, there
    is nothing to wait for."""
    global _now
    _now = what, done, total, of


def present() -> str:
    """Return the present activity as a line; empty when there is nothing to wait for."""
    what, done, total, of = _now
    return what + (f": {done:,} of {count_of(total, of)}" if what and total else "")


class Pulse:
    """A thread that shows the present activity from time to time, until its context is left."""

    def __init__(self, mode: str = "auto", *, stderr: bool = False) -> None:
        """Choose the way of showing the activity.

        `mode`: as `logger.console`. `stderr`: use standard error, because standard output holds
        other data.
        """
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
        """Start the wait anew, because another line was shown."""
        self._spoken, self._wait = time.monotonic(), FIRST

    def through(self, say: Callable[[str], None]) -> None:
        """Send plain lines through `say` from now on."""
        self._say = say

    def pause(self, paused: bool) -> None:
        """Pause or resume the pulse. During a pause another view shows the activity that `present`
        returns."""
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
                    # A call that holds the interpreter's lock delays this thread too, but then the
                    # process uses processor time.
                    if line and clock - before >= max(STILL, 2 * (work - worked)):
                        self._say(STOOD.format(clock - before))
                    self._beat(line)
                except (MtlError, OSError):
                    # The output cannot be written: the next line of the run itself meets the same
                    # error and stops the run.
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
    """Return the pulse that runs in this process, if one does."""
    return _pulse
