"""The bytes of a text file, compressed or not, within the memory that there is."""

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
"""What reading a text file takes, in times of its size: its bytes, its text, its fields and its
columns."""


def text_bytes(path: Path) -> bytes:
    """All bytes of a text file, unpacked. Raises OSError when it cannot be read, UserError when it
    is damaged or too large."""
    packed = ending(path).rpartition(".")[2]
    free = free_memory()
    if packed not in COMPRESSIONS:
        if free is not None and (needed := path.stat().st_size * TIMES) > free:
            raise too_large(path, "reading the file", needed, free)
        return path.read_bytes()
    content = io.BytesIO()
    try:
        with _opened(path, packed) as file:
            while block := file.read(BLOCK):
                content.write(block)
                if free is not None and (needed := content.tell() * TIMES) > free:
                    raise too_large(path, "reading what the archive holds", needed, free)
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno is not None:  # Of the disk; the formats' own faults have no number.
            raise
        raise _damaged(path, error) from error
    return content.getvalue()


def too_large(path: Path, what: str, needed: int, free: int) -> UserError:
    """That rows do not go into memory: `needed` and `free` are bytes."""
    fix = "use a machine with more memory, or a file with fewer rows"
    text = f"{what} takes {size_text(needed)} of memory or more, and {size_text(free)} is free"
    return UserError(text, str(path), fix)


def first_line(error: Exception) -> str:
    """What a library says of a fault, without what follows in further lines."""
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
