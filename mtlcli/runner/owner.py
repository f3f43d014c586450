"""One owner: at most one process writes into a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from pathlib import Path

from mtlcli.errors import UserError

NAME = ".owner"


class Owner:
    """Holds a run folder from `take` to the end of the process or `release`. The kernel frees the lock when the owner is killed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises UserError with the owner's process and host when another one has the folder, OSError when the file cannot be written."""
        # No buffer: what a full disk has refused would be written again when the file is closed.
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        except BlockingIOError:
            owner = _read(self._file.read_text(encoding="utf-8"))
            os.close(descriptor)
            raise UserError(
                f"another run is writing here: {owner}", where=str(self._file.parent), fix="wait for it, stop it, or give another run_dir="
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the folder back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has just begun"
