"""Standard output and standard error of a program that outlives their readers. This module imports
nothing heavy.

By hand, since Python raises an error at the first text that has no reader, and rich ends the
program then; a run has to go on.
"""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from typing import IO, Any

GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF}
"""Error numbers of a pipe, a terminal or a connection that has lost its reader."""

_lost: list[str] = []


def say(text: str) -> None:
    """Print a line about what is being done, beside what a command prints as its result."""
    print(text, file=sys.stderr, flush=True)


def fill_closed() -> None:
    """Open the null device where standard input, output or error is closed, as some cron jobs and
    window managers leave them.

    Otherwise the next file to be opened would get the descriptor, and the program's output would be
    written into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the lowest free descriptor, which is this one. It is inheritable, so
            # that the ranks' processes have the stream too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            made = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, made)
            setattr(sys, f"__{name}__", made)


def show_any_text() -> None:
    """Let standard output and error show characters that the encoding of the terminal lacks, as
    escapes such as `\\u65e5`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence(stream: IO[str]) -> None:
    """Send the rest of a stream, and everything written to it later, to the null device, because it
    has no reader any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def outlive_reader(*names: str) -> None:
    """Let the streams `stdout` or `stderr` of this process discard their text once they have no
    reader, instead of raising OSError.

    A full disk is still an error where the output goes into a file.
    """
    for name in names:
        stream = getattr(sys, name)
        # Leave a stream alone that tests or notebooks have replaced.
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            setattr(sys, name, _lasting(stream, name))


def news() -> list[str]:
    """Return the streams that have lost their reader since the last call, with the system's
    error."""
    found = _lost[:]
    del _lost[: len(found)]
    return found


def _lasting(stream: io.TextIOWrapper, name: str) -> io.TextIOWrapper:
    """Return the same stream, on top of a `_Lasting` file."""
    raw = _Lasting(stream.fileno(), name)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Lasting(io.FileIO):
    """An open file that discards its writes once its reader is gone."""

    def __init__(self, descriptor: int, stream: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._stream = stream

    def write(self, data: Any) -> int:
        try:
            # `write` returns None when the file does not block and its reader is slow.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            if error.errno not in GONE or self._is_file():
                raise
            # Replace the descriptor itself, because libraries that do not write through Python
            # share it.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            _lost.append(
                f"standard {'output' if self._stream == 'stdout' else 'error'} ({error.strerror})"
            )
            return len(data)
        return written

    def _is_file(self) -> bool:
        try:
            return stat.S_ISREG(os.fstat(self.fileno()).st_mode)
        except OSError:
            return False
