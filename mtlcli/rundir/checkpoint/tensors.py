"""Tensors as a safetensors file, without a second copy of them in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.bool": "BOOL",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
}
"""What safetensors calls the dtypes."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    # A sum is finite only when all it adds up is, and is found ten times as fast; a large one may
    # overflow by itself.
    return (
        not tensor.is_floating_point()
        or bool(tensor.detach().sum().isfinite())
        or bool(tensor.isfinite().all())
    )


def pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file, piece by piece: the library would hold all of it once or twice more,
    which is several times the model.

    The format (https://github.com/huggingface/safetensors): the length of the header in 8 bytes,
    the header, filled up with spaces to a multiple of 8 bytes, and the tensors, here the widest
    numbers first, so that all lie aligned.
    """
    import torch

    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
