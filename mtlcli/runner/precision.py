"""Which number format the matrix products of training use."""

from __future__ import annotations

import time

import torch

SPEEDUP = 1.3
"""bf16 is taken on a CPU only when its products are at least this much faster: autocast's conversions cost time too."""

ROUNDS = 20
"""Products of each format that are timed, in turn."""


def choose_precision(wanted: str, device: torch.device) -> str:
    """`fp32` or `bf16`. `auto` is bf16 on GPUs that have it, and on CPUs that have it and are measured to be clearly faster with it."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _has_instructions() and _speedup() > SPEEDUP else "fp32"


def _has_instructions() -> bool:
    # Without them bf16 is emulated, tens of times slower; the flags cannot be mistaken, a measurement on a busy machine can.
    flags = torch.cpu.get_capabilities()
    return any(flags.get(name, False) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))


def _speedup() -> float:
    """How much faster a small bf16 product is than an fp32 one: the ratio of the best of `ROUNDS`, taken in turn."""
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(ROUNDS):
        for dtype in best:
            left, right = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
            start = time.perf_counter()
            left @ right
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]
