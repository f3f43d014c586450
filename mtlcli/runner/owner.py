"""One owner: at most one process writes into a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from pathlib import Path
from typing import IO

from mtlcli.errors import UserError

NAME = ".owner"


class Owner:
    """Holds a run folder from `take` to the end of the process or `release`. The kernel frees the lock when the owner is killed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self._stream: IO[str] | None = None

    def take(self) -> None:
        """Raises UserError with the owner's process and host when another one has the folder."""
        stream = self._file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = _read(stream.read())
            stream.close()
            raise UserError(
                f"another run is writing here: {owner}", where=str(self._file.parent), fix="wait for it, stop it, or give another run_dir="
            ) from None
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        stream.flush()
        self._stream = stream

    def release(self) -> None:
        """Give the folder back."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _read(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just begun"
