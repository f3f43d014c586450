"""Standard output and standard error of a program that outlives whoever reads them. Imports nothing
heavy."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from typing import IO, Any

GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF}
"""Answers of a pipe, a terminal or a connection that has no reader any more."""

_lost: list[str] = []


def fill_closed() -> None:
    """Open the null device where standard input, output or error is closed, as some cron jobs and
    window managers leave them.

    Otherwise the next file that is opened would get the number, and output would be written into
    it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one. The processes of ranks get the stream, too.
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
    """Send what is left in a stream, and what still comes, to the null device: nobody can receive
    it any more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def outlive_reader(*names: str) -> None:
    """Let the streams `stdout` or `stderr` of this process discard what is written once nobody
    reads it, instead of raising OSError.

    A disk that is full, where output goes into a file, is still an error.
    """
    for name in names:
        stream = getattr(sys, name)
        # Tests and notebooks have put something else in the place of the stream.
        if isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            stream.flush()
            setattr(sys, name, _lasting(stream, name))


def news() -> list[str]:
    """Which streams have lost their reader since the last call, and how that showed."""
    found = _lost[:]
    del _lost[: len(found)]
    return found


def _lasting(stream: io.TextIOWrapper, name: str) -> io.TextIOWrapper:
    """The same stream, on top of a `_Lasting` file."""
    raw = _Lasting(stream.fileno(), name)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Lasting(io.FileIO):
    """An open file whose writes go nowhere once its reader is gone."""

    def __init__(self, descriptor: int, stream: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._stream = stream

    def write(self, data: Any) -> int:
        try:
            # None: the file does not block, and its reader is slow.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            if error.errno not in GONE or self._is_file():
                raise
            # Libraries that write past Python share the descriptor.
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
