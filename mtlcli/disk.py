"""Writing to the disk, and its errors in words for the user: the reason, the disk space that was
needed, and the space that is free.

By hand, since Python's library flushes neither a file nor the names in a folder to the disk, and
atomicwrites, which does so for single files, is no longer maintained.
"""

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
    errno.EDQUOT: "delete some of your files there, or have the quota raised",
    errno.EFBIG: "raise the largest size of a file (ulimit -f)",
    errno.EROFS: "mount it writable",
    errno.EACCES: "make it writable for you",
    errno.EPERM: "make it writable for you",
    errno.EIO: "check the disk (dmesg)",
    errno.ESTALE: "check the file server",
}
"""The user's remedy for each error number. An OSError with one of these numbers is never a mistake
of this program."""


def size_text(size: int) -> str:
    """Return a text for a number of bytes."""
    for unit, name in ((2**30, "GB"), (2**20, "MB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size / 2**10:.1f} kB"


def free_text(size: int) -> str:
    """Return the end of a sentence about the number of free bytes."""
    return f"{size_text(size)} is free" if size else "no space is free"


def free(place: Path) -> int | None:
    """Return the number of free bytes where a path is or would be; None when the system does not
    report it. A quota may leave less."""
    for folder in (place, *place.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
    return None


def reason(error: OSError, place: Path, needed: int | None = None) -> str:
    """Return why something could not be written at a path, with the needed bytes, if known, and the
    free bytes."""
    parts = [] if needed is None else [f"needs {size_text(needed)}"]
    if needed is not None or error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = free(place)
        left = "the free space is unknown" if there is None else free_text(there)
        parts.append(
            left + (", but your quota may allow less" if error.errno == errno.EDQUOT else "")
        )
    return f"{error.strerror or error}" + (f" ({', '.join(parts)})" if parts else "")


@contextmanager
def writing(
    what: str, path: Path, then: str, *, needed: int | None = None, kind: type[MtlError] = RunError
) -> Iterator[None]:
    """Raise an OSError inside the context as an error of class `kind`: `what`, which belongs at
    `path`, cannot be written.

    `then`: the user's next step after the remedy.
    """
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "check the path")
        raise kind(
            f"{what} cannot be written: {reason(error, path, needed)}",
            where=str(path),
            fix=f"{remedy}, {then}",
        ) from error


def obstacle(path: Path, *, folder: bool) -> str | None:
    """Return why no file (or, with `folder`, no folder of files) can be written at a path, in words
    that name the faulty part of the path; None when it can be written.

    Call this before the work whose result belongs there. The check leaves no file behind.
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
                return None if os.access(part, os.W_OK) else f"{part} is not writable by you"
            elif part.is_symlink():
                return f"{part} is a link to nothing"
        if place == path.absolute() and not folder:
            return f"{place} is a folder, not a file"
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return f"{error.strerror or error}: {error.filename or path}"


def write_whole(file: Path, text: str) -> None:
    """Write a text file as a whole, and flush it to the disk, so that a power cut cannot lose it.

    A reader sees the old file or the new one. After a failure nothing of the new file is left.
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
    """Make a folder and its missing parent folders, and flush their names to the disk."""
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
    """Append a text to a file as a whole: when the disk accepts only a part of the text, that part
    is removed again."""
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
    """Make a folder that no other process has, with its parent folders: `NAME`, else `NAME_2`,
    `NAME_3`, ...

    Each name is tried by making the folder, so two processes that start in the same second never
    get the same one.
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
    """Return the SHA-256 of a file's content, read piece by piece. By hand, since Python 3.10 has
    no `hashlib.file_digest`."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
