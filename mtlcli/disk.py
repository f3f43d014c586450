"""What a disk answers when something is written to it, in the words the user reads: why not, how
much was needed, how much is free."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtlcli.errors import MtlError, RunError

REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "delete something of yours there, or have the quota raised",
    errno.EFBIG: "raise the largest size of a file (ulimit -f)",
    errno.EROFS: "mount it writable",
    errno.EACCES: "make it writable for you",
    errno.EPERM: "make it writable for you",
    errno.EIO: "look at the disk (dmesg)",
    errno.ESTALE: "look at the file server",
}
"""What the user can do about each answer. An OSError with one of these is never a mistake of this
program."""


def size_text(size: int) -> str:
    """A number of bytes for people."""
    for unit, name in ((2**30, "GB"), (2**20, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 2**10:.1f} kB"


def free_text(size: int) -> str:
    """How many bytes are free, as the end of a sentence."""
    return f"{size_text(size)} is free" if size else "nothing is free"


def free(place: Path) -> int | None:
    """Bytes that are free where a path is or would be; None when that cannot be known. What a quota
    leaves may be less."""
    for folder in (place, *place.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None


def reason(error: OSError, place: Path, needed: int | None = None) -> str:
    """Why something could not be written at a path, with the bytes that were needed, if known, and
    those that are free."""
    parts = [] if needed is None else [f"needs {size_text(needed)}"]
    if needed is not None or error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = free(place)
        left = "how much is free is not known" if there is None else free_text(there)
        parts.append(
            left + (", of which the quota gives you less" if error.errno == errno.EDQUOT else "")
        )
    return f"{error.strerror or error}" + (f" ({', '.join(parts)})" if parts else "")


@contextmanager
def writing(
    what: str, path: Path, then: str, *, needed: int | None = None, kind: type[MtlError] = RunError
) -> Iterator[None]:
    """Within it, an OSError means that `what`, which belongs at `path`, cannot be written: it is
    raised as `kind`.

    `then`: what the user does once the remedy is found.
    """
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "look at the path")
        raise kind(
            f"{what} cannot be written: {reason(error, path, needed)}",
            where=str(path),
            fix=f"{remedy}, {then}",
        ) from error


def obstacle(path: Path, *, folder: bool) -> str | None:
    """Why no file (or, with `folder`, no folder of files) can be written at a path, in words that
    name the part to blame; None: it can.

    Asked before the work whose result belongs there. Nothing is left behind.
    """
    place = Path.cwd()
    try:
        for part in (*reversed(path.absolute().parents), path.absolute()):
            last = part == path.absolute()
            if part.is_dir():
                place = part
            elif part.exists():
                if not last or folder:
                    return f"{part} is a file, not a folder"
                return None if os.access(part, os.W_OK) else f"{part} is not writable for you"
            elif part.is_symlink():
                return f"{part} is a link to nothing"
        if place == path.absolute() and not folder:
            return f"{place} is a folder, not a file"
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return f"{error.strerror or error}: {error.filename or path}"


def write_whole(file: Path, text: str) -> None:
    """Put a text file in its place in one piece, and on the disk, so that a power cut cannot take
    it away again.

    A reader sees the old file or the new one, and after a failure nothing of the new one is left.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        flush(file.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder and those it lies in, where they are missing, and put their names on the
    disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush(path.parent)


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append(file: Path, text: str) -> None:
    """Add a text to a file, as a whole: when the disk takes only a part of it, that part is taken
    back."""
    content = text.encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def make_numbered(folder: Path) -> Path:
    """Make a folder that nobody else has, and the folders above it: `NAME`, else `NAME_2`,
    `NAME_3`, ...

    Each name is tried by making it, so two processes that start in the same second never get the
    same one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise AssertionError


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, read a piece at a time."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
