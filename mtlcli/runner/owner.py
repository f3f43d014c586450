"""One owner: at most one run writes into a run folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path

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
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int | None:
        """The open file that the lock belongs to, if it is held."""
        return self._descriptor

    def take(self) -> None:
        """Raises UserError with the owner's process and host when another one has the folder, OSError when the file cannot be written."""
        # No buffer: what a full disk has refused would be written again when the file is closed. No link: somebody else's file.
        if self._file.is_symlink():
            raise UserError(
                "the folder cannot be locked: the file is a link", where=str(self._file), fix="remove it, or give another run_dir="
            )
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            if not _locked(descriptor):
                owner = _read(self._file.read_text(encoding="utf-8"))
                raise UserError(
                    f"another run is writing here: {owner}",
                    where=str(self._file.parent),
                    fix="wait for it, stop it, or give another run_dir=",
                )
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        except (OSError, UserError):
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def check(self) -> None:
        """Raise UserError when another process has the folder; do not take it."""
        if self._file.exists():
            self.take()
            self.release()

    def release(self) -> None:
        """Give the folder back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _locked(descriptor: int) -> bool:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
