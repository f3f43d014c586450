"""One owner: at most one run writes into a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import IO

from mtlcli.errors import UserError

NAME = ".owner"
PATIENCE = 0.5
"""Seconds that `take` waits: for one that only looks whether the folder is taken, and for an owner to write who it is."""


class Owner:
    """Holds a run folder from `take` to `release` or the end of the process, however it ends: the kernel frees the lock.

    The lock belongs to the open file. A process that inherits `descriptor` holds it too, until both are gone.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self._stream: IO[str] | None = None

    @property
    def descriptor(self) -> int | None:
        """The open file that the lock belongs to, if it is held."""
        return None if self._stream is None else self._stream.fileno()

    def take(self) -> None:
        """Raises UserError with the owner's process and host when another one has the folder."""
        try:
            # A link would let somebody else's file be emptied.
            stream = os.fdopen(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8")
            if not _locked(stream):
                owner = _read(stream.read())
                stream.close()
                raise UserError(
                    f"another run is writing here: {owner}",
                    where=str(self._file.parent),
                    fix="wait for it, stop it, or give another run_dir=",
                )
            stream.truncate(0)
            stream.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
            stream.flush()
        except OSError as error:
            raise UserError(
                f"the folder cannot be locked: {error.strerror or error}", where=str(self._file), fix="type another run_dir="
            ) from error
        self._stream = stream

    def check(self) -> None:
        """Raise UserError when another process has the folder; do not take it."""
        if self._file.exists():
            self.take()
            self.release()

    def release(self) -> None:
        """Give the folder back."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _locked(stream: IO[str]) -> bool:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        else:
            return True


def _read(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just begun"
