"""Seeds of any size, for generators that take 64 bits."""

from __future__ import annotations

import hashlib

LARGEST = 2**63 - 1


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
