"""How often Python looks for garbage: seldom while a process starts, as usual once it works."""

from __future__ import annotations

import gc

USUAL = gc.get_threshold()


def seldom() -> None:
    """For the start: importing makes a million objects that stay, and looking through them takes a sixth of the time to the first step."""
    gc.set_threshold(100_000)


def as_usual() -> None:
    """Before work begins: cycles may hold tensors, whose memory is needed back soon."""
    gc.set_threshold(*USUAL)
