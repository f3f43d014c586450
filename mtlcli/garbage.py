"""Memory that is no longer in use: how often Python searches for it, and when the C library gives
it back."""

from __future__ import annotations

import ctypes
import gc
import sys

USUAL = gc.get_threshold()


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
    whose memory is soon needed again. In a process of our own (`at_start`), what is in use by now
    stays, and is not searched again: each search of it takes a third of a second."""
    if gc.get_threshold() != USUAL:
        gc.collect()
        gc.freeze()
    gc.set_threshold(*USUAL)
