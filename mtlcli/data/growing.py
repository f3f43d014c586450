"""Arrays that are written to .npy files piece by piece."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class GrowingArray:
    """A .npy file that pieces of an array are appended to. The finished file has the bytes that
    `numpy.save` writes for the whole array."""

    def __init__(self, path: Path) -> None:
        """Open a new file. Its dtype and the axes behind the first are those of the first piece."""
        self._file: IO[bytes] = path.open("wb")
        self._like: NDArray | None = None
        self._length = 0

    def append(self, piece: NDArray) -> None:
        """Write a piece at the end: (rows, ...). Raises OSError when the disk takes no more."""
        if self._like is None:
            self._like = piece[:0]
            self._write_header()
        assert (piece.dtype, piece.shape[1:]) == (self._like.dtype, self._like.shape[1:])
        self._file.write(np.ascontiguousarray(piece).data)
        self._length += len(piece)

    def close(self) -> None:
        """Write the number of rows into the header, and flush the file to the disk."""
        assert self._like is not None, "an array without a piece has no dtype"
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is. Closing it again does nothing."""
        # What is still in the buffer may not fit on the disk, and nobody will read it.
        with suppress(OSError):
            self._file.close()

    def _write_header(self) -> None:
        assert self._like is not None
        header: dict[str, Any] = npy.header_data_from_array_1_0(self._like)
        # numpy leaves room in the header for the first axis to grow, so its size stays the same.
        header |= {"fortran_order": False, "shape": (self._length, *self._like.shape[1:])}
        npy.write_array_header_1_0(self._file, header)
