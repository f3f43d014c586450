"""The lock of a cache entry: one process fills the entry while the others wait, for a limited time
and with messages."""

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
"""Seconds of waiting after which the caller does without the cache."""


@contextmanager
def locked(
    entry: Path,
    work: str = "to encode the same rows",
    then: str = "encodes the rows without the store",
) -> Iterator[str | None]:
    """Hold the lock of `entry`, a path without suffix, so that this process alone fills it. The
    lock is the file `ENTRY.lock` beside the entry.

    Yields None once this process has the lock. After PATIENCE seconds of waiting, yields a
    description of the process that has the lock; the caller then does not have it. While this
    process waits, messages on standard error name the process that has the lock, with `work`, what
    it does, and `then`, what this process does after PATIENCE seconds.
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
            f"waiting for {holder}, which holds the lock {entry.with_suffix('.lock')} {work}: "
            f"{waited:.0f} s so far; after {PATIENCE:g} s this run {then}",
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
    """Return a description of the process that holds the lock, for messages."""
    try:
        holder = json.loads(note.read_text(encoding="utf-8"))
        pid, host = int(holder["pid"]), str(holder["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    return f"process {pid} on {host}" + (
        " (stopped)" if host == platform.node() and _is_stopped(pid) else ""
    )


def _is_stopped(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
