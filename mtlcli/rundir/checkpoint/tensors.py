"""The writer of safetensors files, which makes no second copy of the tensors in memory."""

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
"""The names of the dtypes in safetensors."""


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite."""
    # A finite sum proves that all numbers are finite, and takes a tenth of the time. The sum of
    # large finite numbers may overflow, so look at each number then.
    return (
        not tensor.is_floating_point()
        or bool(tensor.detach().sum().isfinite())
        or bool(tensor.isfinite().all())
    )


def pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file, piece by piece: the safetensors library would hold the whole file
    once or twice more in memory, which is several times the model.

    The format (https://github.com/huggingface/safetensors): the length of the header in 8 bytes,
    the header, filled up with spaces to a multiple of 8 bytes, and the tensors. Here the tensors
    with the widest numbers come first, so that all of them lie aligned.
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
