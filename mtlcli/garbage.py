"""Memory that nobody needs any more: how often Python looks for it, and what the C library does
with it."""

from __future__ import annotations

import ctypes
import gc
import sys

USUAL = gc.get_threshold()
TRIM, MMAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
LARGEST_MMAP = 32 * 2**20
"""The largest that glibc takes for the second."""


def give_back() -> None:
    """Return freed memory to the system where the C library can (glibc), so that what is resident
    is in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def at_start() -> None:
    """Python looks seldom: importing makes a million objects that stay, and looking through them
    takes a sixth of the time to the first step."""
    gc.set_threshold(100_000)


def at_work() -> None:
    """Python looks as often as usual: cycles may hold tensors, whose memory is needed back soon.
    glibc keeps what is freed, but for blocks above LARGEST_MMAP: a step needs what the one before
    has freed, and the system would clear every page of it anew."""
    gc.set_threshold(*USUAL)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP, LARGEST_MMAP)
        mallopt(TRIM, 2**31 - 1)
