"""Reading of the bytes of a text file, compressed or not, within the free memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from mtlcli.config.formats import COMPRESSIONS, ending
from mtlcli.disk import size_text
from mtlcli.errors import UserError
from mtlcli.memory import free_memory

BLOCK = 1 << 20
TIMES = 5
"""Memory that reading a text file needs, as a multiple of the file's size: for its bytes, its text,
its fields and its columns."""


def text_bytes(path: Path) -> bytes:
    """Return all bytes of a text file, unpacked. Raises OSError when the file cannot be read,
    UserError when it is damaged or too large for the free memory."""
    packed = ending(path).rpartition(".")[2]
    free = free_memory()
    if packed not in COMPRESSIONS:
        if (needed := path.stat().st_size * TIMES) > free:
            raise too_large(path, "reading the file", needed, free)
        return path.read_bytes()
    content = io.BytesIO()
    try:
        with _opened(path, packed) as file:
            while block := file.read(BLOCK):
                content.write(block)
                if (needed := content.tell() * TIMES) > free:
                    raise too_large(path, "reading what the archive holds", needed, free)
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # An error of the disk. Errors of the compressed format have no errno.
        if error.errno is not None:
            raise
        raise _damaged(path, error) from error
    return content.getvalue()


def too_large(path: Path, what: str, needed: int, free: int) -> UserError:
    """Return the error for rows that do not fit into memory. `needed` and `free` are in bytes."""
    fix = "use a machine with more memory, or a file with fewer rows"
    text = f"{what} takes {size_text(needed)} of memory or more, and {size_text(free)} is free"
    return UserError(text, str(path), fix)


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message, or the name of the error's class where
    the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _opened(path: Path, packed: str) -> IO[bytes] | Any:
    if packed == "zst":
        return pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
    if packed == "gz":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if packed == "bz2" else lzma.open(path, "rb")


def _damaged(path: Path, error: Exception) -> UserError:
    fix = (
        "download or write the file again; a file that is not compressed has no "
        f".{path.suffix[1:]} at its end"
    )
    return UserError(
        f"the compressed file is damaged or of another kind: {first_line(error)}", str(path), fix
    )
