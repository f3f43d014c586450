"""The lock of an entry of a cache: one process fills the entry, the others wait, but not for ever
and not without a word."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

QUIET = 5.0
"""Seconds of waiting before the first message."""
EVERY = 60.0
"""Seconds between two messages."""
PATIENCE = 300.0
"""Seconds after which the caller does without the cache."""


@contextmanager
def locked(entry: Path) -> Iterator[str | None]:
    """Within it, this process alone fills `entry`, a path without suffix: the lock is the file
    `ENTRY.lock` beside it.

    Gives None, or who has held the lock for too long: the caller does not have it then. While it
    waits, standard error says for whom.
    """
    lock, note = FileLock(entry.with_suffix(".lock")), entry.with_suffix(".holder")
    begun = time.monotonic()
    pause = QUIET
    while True:
        try:
            lock.acquire(timeout=pause)
            break
        except Timeout:
            waited = time.monotonic() - begun
            holder = _read(note)
        if waited >= PATIENCE:
            yield holder
            return
        print(
            f"waiting for {holder}, which holds the lock {entry.with_suffix('.lock')} to encode "
            "the same rows: "
            f"{waited:.0f} s so far; after {PATIENCE:g} s this run encodes the rows without the "
            "store",
            file=sys.stderr,
            flush=True,
        )
        pause = min(EVERY, PATIENCE - waited)
    try:
        note.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")
        yield None
        note.unlink(missing_ok=True)
    finally:
        lock.release()


def _read(note: Path) -> str:
    """Who holds the lock, in words."""
    try:
        holder = json.loads(note.read_text(encoding="utf-8"))
        pid, host = int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    return f"process {pid} on {host}" + (
        " (stopped)" if host == platform.node() and _is_stopped(pid) else ""
    )


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False
