"""Files of tensors, written by the safetensors library."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mtlcli.disk import flush

if TYPE_CHECKING:
    from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite."""
    # A finite sum proves that all numbers are finite, and takes a tenth of the time. The sum of
    # large finite numbers may overflow, so look at each number then.
    return (
        not tensor.is_floating_point()
        or bool(tensor.detach().sum().isfinite())
        or bool(tensor.isfinite().all())
    )


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> tuple[int, str]:
    """Write a safetensors file, flush it to the disk, and return the size of the file and the
    SHA-256 of the bytes that were to be written. Raises OSError.

    This calls the library's `serialize_file`, because `save_file` refuses tensors that share
    memory. The library writes straight from the memory of the tensors and makes no copy.
    """
    import torch
    from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    specs = {
        name: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tensor.shape,
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for name, tensor in plain.items()
    }
    try:
        serialize_file(specs, file)
    except SafetensorError as error:
        # The library passes on the number of a system error only in its text.
        if (found := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error
    # The library lets nobody but the owner read the file; give it the usual mode.
    file.chmod(file.parent.stat().st_mode & 0o666)
    flush(file)
    # Compute the digest from memory, so that a file with other content does not verify. Behind a
    # header, the file holds the tensors in the order of their offsets.
    size = file.stat().st_size
    with file.open("rb") as stream:
        digest = hashlib.sha256(stream.read(size - sum(tensor.nbytes for tensor in plain.values())))
    with safe_open(file, framework="pt") as reader:
        for name in reader.offset_keys():
            digest.update(plain[name].reshape(-1).view(torch.uint8).numpy().data)
    return size, digest.hexdigest()
