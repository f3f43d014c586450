"""Seeds for torch's generators, as pure functions of the run's seed, so that no random state has to
be saved.

By hand, although numpy's SeedSequence derives seeds too: other formulas would change the numbers of
every run.
"""

from __future__ import annotations

import hashlib

LARGEST = 2**63 - 1
WEIGHTING = 4095
"""The number under which the weighting draws in a step, above those of the ranks."""
SHARING = 4094
"""The number under which the sharing strategy draws in a step."""


def folded(seed: int) -> int:
    """Return a seed for torch's generators, from 0 to 2^63 - 1: the number itself if it lies in
    this range, else 63 bits of its hash."""
    if 0 <= seed <= LARGEST:
        return seed
    size = seed.bit_length() // 8 + 1
    return (
        int.from_bytes(hashlib.sha256(seed.to_bytes(size, "big", signed=True)).digest()[:8], "big")
        >> 1
    )


def derived_seed(seed: int, number: int) -> int:
    """Return the seed of draw number `number` of a run."""
    return folded(seed * 1_000_003 + number)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed with which a rank draws in a step; `rank` may also be `WEIGHTING`
    or `SHARING`."""
    return folded((seed * 1_000_003 + step) * 4096 + rank)
