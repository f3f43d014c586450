"""Memory that is no longer in use: how often Python searches for it, and what the C library does
with it."""

from __future__ import annotations

import ctypes
import gc
import sys

USUAL = gc.get_threshold()
TRIM, MMAP = -1, -3
"""The numbers of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in glibc's malloc.h."""
LARGEST_MMAP = 32 * 2**20
"""The largest M_MMAP_THRESHOLD that glibc accepts, in bytes."""


def give_back() -> None:
    """Return freed memory to the system where the C library can do so (glibc), so that resident
    memory is memory in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def at_start() -> None:
    """Let Python search for garbage seldom: imports make a million objects that stay, and searching
    them takes a sixth of the time to the first step."""
    gc.set_threshold(100_000)


def at_work() -> None:
    """Let Python search for garbage as often as usual, because reference cycles may hold tensors,
    whose memory is soon needed again.

    Let glibc keep freed memory, except for blocks above LARGEST_MMAP: each step needs the memory
    that the step before has freed, and the system would clear every page of returned memory again.
    """
    gc.set_threshold(*USUAL)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP, LARGEST_MMAP)
        mallopt(TRIM, 2**31 - 1)
