"""Which number format the matrix products of training use."""

from __future__ import annotations

import time

import torch

SPEEDUP = 1.3
"""bf16 is taken on a CPU only when its products are at least this much faster: autocast's conversions cost time too."""


def choose_precision(wanted: str, device: torch.device) -> str:
    """`fp32` or `bf16`. `auto` is bf16 on GPUs that have it and on CPUs where a product is measured to be clearly faster."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _seconds(torch.float32) > SPEEDUP * _seconds(torch.bfloat16) else "fp32"


def _seconds(dtype: torch.dtype) -> float:
    """Time of a small matrix product: the best of five, the first left out."""
    left, right = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - start)
    return min(times[1:])
