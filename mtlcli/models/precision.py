"""The number format of the matrix products in training and evaluation: a rule, never a measurement.

The rule reads only what the hardware can do, so one command gives the same numbers on one machine,
whatever else runs there, and all jobs of a sweep use one format. Losses, outputs of heads and
metrics are in fp32 in any case.
"""

from __future__ import annotations

import os

import torch

from mtlcli.data.batches import InputFormat
from mtlcli.data.encoder import TextEncoder

CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instruction sets that multiply bf16, as `torch.cpu.get_capabilities` names them: Intel's AMX,
AVX512-BF16 of Intel and AMD, and ARM's BFMMLA. Without them bf16 is emulated, tens of times slower.

On an AMD EPYC with AVX512-BF16 alone, MiniLM on the GLUE mixture trains on 1.6 times as many tokens
in a second of one core as in fp32 (1.58 and 1.61 in two pairs of runs); its products alone are 2.1
to 2.7 times as fast. An Intel CPU whose AMX was switched off took 1.6 times as long in bf16 as in
fp32, but nearly every Intel CPU with AVX512-BF16 has AMX.
"""


KERNELS_A_SHAPE = 17
"""The number of kernels that oneDNN compiles for the products of one layer in bf16 when a batch has
a new shape; all layers of a network use the same kernels."""
KERNEL_BYTES = 2**20
"""The largest number of bytes that such a kernel keeps (measured: 0.5 to 1.1 MB)."""
MOST_KERNELS = 1024
"""oneDNN's own bound on the number of kernels that it keeps."""
KERNEL_BOUND = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""The environment variable that replaces oneDNN's own bound."""


WIDTHS = 8
"""Multiple to which the widths of batches are rounded up for bf16 on a CPU with AMX."""


def input_format(encoder: TextEncoder, precision: str, device: torch.device) -> InputFormat:
    """Return how features become batches in a number format on a device.

    In bf16 on a CPU with AMX, batches have few widths, since oneDNN compiles its kernels anew for
    each new one: MiniLM on the GLUE mixture, 75 steps of 32 inputs, took 0.94 times the processor
    time (median of four) and 0.95 times the memory, although 12% of the tokens are padding then.
    """
    rounded = (
        precision == "bf16"
        and device.type == "cpu"
        and torch.cpu.get_capabilities().get("amx_bf16", False)
    )
    return InputFormat(encoder.pad_id, encoder.uses_segments, WIDTHS if rounded else 1)


def bound_kernels(free: int) -> None:
    """Let oneDNN keep at most as many compiled kernels as fit into a fifth of `free` bytes.

    On a CPU, oneDNN compiles its bf16 kernels anew for each shape of a batch and keeps 1,024 of
    them, which can be a gigabyte. Call this before the first product of the process, which is when
    oneDNN reads the bounds from the environment. Bounds that the user has set there stay.
    """
    kernels = max(2 * KERNELS_A_SHAPE, min(MOST_KERNELS, free // 5 // KERNEL_BYTES))
    os.environ.setdefault(KERNEL_BOUND, str(kernels))
    # The layer between torch and oneDNN has its own cache, which keeps kernels that oneDNN has
    # dropped.
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(max(8, kernels // 16)))


def shapes_kept() -> int:
    """Return the number of batch shapes for which oneDNN keeps its compiled kernels."""
    bound = os.environ.get(KERNEL_BOUND, "")
    return -(-(int(bound) if bound.isdigit() else MOST_KERNELS) // KERNELS_A_SHAPE)


def choose_precision(wanted: str, device: torch.device) -> str:
    """Return `fp32` or `bf16`.

    For `auto`, this is bf16 on a GPU and on a CPU with instructions for bf16 products, else fp32.
    Any other `wanted` is returned unchanged.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if any(flags.get(name, False) for name in CPU_BF16) else "fp32"
