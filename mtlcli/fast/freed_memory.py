"""Memory that a step frees stays with the process, for the next step."""

from __future__ import annotations

import ctypes
import sys

TRIM, MMAP = -1, -3
"""The numbers of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD in glibc's malloc.h."""
LARGEST_MMAP = 32 * 2**20
"""The largest M_MMAP_THRESHOLD that glibc accepts, in bytes."""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, except for blocks above LARGEST_MMAP: each step needs the memory
    that the step before has freed, and the system would clear every page of returned memory
    again."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(MMAP, LARGEST_MMAP)
        mallopt(TRIM, 2**31 - 1)
