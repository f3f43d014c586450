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
"""Seconds that `take` waits: for one that only looks whether the folder is taken, and for an owner
to write who it is."""


class Owner:
    """Holds a run folder from `take` to `release` or the end of the process, however it ends: the
    kernel frees the lock.

    Two locks: on the file `.owner`, and on the folder itself, because somebody may delete the file.
    They belong to what is open: a process that inherits `descriptors` holds them too, until both
    are gone.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self.descriptors: list[int] = []
        """What is open and locked: nothing, or the file and, where the file system can lock it, the
        folder."""

    def take(self) -> None:
        """Raises UserError with the owner's process and host when another one has the folder,
        OSError when the file cannot be written."""
        # No buffer: what a full disk has refused would be written again when the file is closed. No
        # link: somebody else's file.
        if self._file.is_symlink():
            raise UserError(
                "the folder cannot be locked: the file is a link",
                where=str(self._file),
                fix="remove it, or give another run_dir=",
            )
        held = [
            os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666),
            os.open(self._file.parent, os.O_RDONLY),
        ]
        try:
            if not (_locked(held[0]) and _locked(held[1], needed=False)):
                raise UserError(
                    f"another run is writing here: {self._who()}",
                    where=str(self._file.parent),
                    fix="wait for it, stop it, or give another run_dir=",
                )
            os.ftruncate(held[0], 0)
            os.write(held[0], json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        except (OSError, UserError):
            for descriptor in held:
                os.close(descriptor)
            raise
        self.descriptors = held

    def _who(self) -> str:
        """The process that has the folder: `.owner` says it, or, when that was deleted,
        status.json."""
        for name in (NAME, "status.json"):
            try:
                owner = json.loads((self._file.parent / name).read_bytes())
                return f"process {owner['pid']}" + (
                    f" on {owner['host']}" if "host" in owner else ""
                )
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return "a process that has just begun"

    def check(self) -> None:
        """Raise UserError when another process has the folder; do not take it."""
        if self._file.exists():
            self.take()
            self.release()

    def release(self) -> None:
        """Give the folder back."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def _locked(descriptor: int, *, needed: bool = True) -> bool:
    """Whether the lock could be had. `needed`: raise OSError where the file system has none;
    otherwise that counts as had."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        except OSError:
            # NFS locks no folders.
            if needed:
                raise
            return True
        else:
            return True
