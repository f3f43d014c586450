"""The folder lock: at most one run writes into a run folder.

By hand, since filelock (which locks the caches) can neither lock a folder nor hand a lock on to the
processes of the other ranks.
"""

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
"""Seconds for which `take` waits: a process may hold the lock only to check it, and a new holder
needs a moment to write its process and host."""


class FolderLock:
    """The folder lock of a run folder, held from `take` to `release` or to the end of the process:
    the kernel frees the lock however the process ends.

    There are two locks: on the file `.owner`, and on the folder itself, because somebody may delete
    the file. The locks belong to the open descriptors: a process that inherits `descriptors` holds
    the locks too, until both processes are gone.
    """

    def __init__(self, folder: Path, named: str = "run_dir=") -> None:
        """`named`: how the user names another folder, for messages."""
        self._file, self._named = folder / NAME, named
        self.descriptors: list[int] = []
        """The open and locked descriptors: none, or the file's and the folder's. A file system that
        cannot lock a folder leaves the second one unlocked."""

    def take(self) -> None:
        """Take the lock. Raises UserError with the holder's process and host when another process
        holds the lock, OSError when the file cannot be written."""
        # The file is unbuffered, since a failed buffered write is retried on close. It is opened
        # with O_NOFOLLOW, so that no lock is taken through a symbolic link.
        if self._file.is_symlink():
            raise UserError(
                "the folder cannot be locked: the file is a link",
                where=str(self._file),
                fix=f"remove it, or give another {self._named}",
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
                    fix=f"wait for it, stop it, or give another {self._named}",
                )
            os.ftruncate(held[0], 0)
            os.write(held[0], json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        except (OSError, UserError):
            for descriptor in held:
                os.close(descriptor)
            raise
        self.descriptors = held

    def _who(self) -> str:
        """Return a description of the process that holds the lock, from `.owner` or, when that file
        was deleted, from status.json."""
        for name in (NAME, "status.json"):
            try:
                holder = json.loads((self._file.parent / name).read_bytes())
                return f"process {holder['pid']}" + (
                    f" on {holder['host']}" if "host" in holder else ""
                )
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
        return "a process that has just started"

    def check(self) -> None:
        """Raise UserError when another process holds the lock; do not keep the lock."""
        if self._file.exists():
            self.take()
            self.release()

    def release(self) -> None:
        """Release the lock."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def _locked(descriptor: int, *, needed: bool = True) -> bool:
    """Return whether the lock could be taken. `needed`: raise OSError where the file system has no
    locks; otherwise the lock counts as taken there."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        except OSError:
            # NFS cannot lock folders.
            if needed:
                raise
            return True
        else:
            return True
