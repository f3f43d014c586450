"""Small disks: real ones, mounted for a test, and functions of the system that fail as a disk
does."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors

PAGE = 4096


class Disk:
    """A file system of its own in memory, with a size."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.filler = place / "filler"

    def mount(self, options: str) -> Path:
        """Mount it and return where. Skips the test where that is not allowed."""
        self.place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(self.place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"this machine lets no test mount a file system: {done.stderr.strip()}")
        return self.place

    def change(self, options: str) -> None:
        """Change its size, or make it read-only."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.place)], check=True)

    def unmount(self) -> None:
        """Take it away, used or not."""
        if self.place.is_mount():
            subprocess.run(["umount", "--lazy", str(self.place)], check=True)

    def fill(self, leave: int = 0) -> None:
        """Leave `leave` bytes free."""
        with self.filler.open("wb") as stream:
            stream.write(bytes(max(shutil.disk_usage(self.place).free - leave, 0)))

    def empty(self) -> None:
        """Take the filler away."""
        self.filler.unlink()


class Failing:
    """Every operation that needs the disk to take something, counted; from the `at`-th on it
    answers with an error."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, at: int | None, number: int = errno.ENOSPC
    ) -> None:
        self._at, self._number = at, number
        self.operations: list[str] = []
        real_open, real_os_open = io.open, os.open

        def opening(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
            if mode.strip("bt") == "r":
                return real_open(file, mode, *more, **options)
            self._operation(f"open {file}")
            return self._watched(real_open(file, mode, *more, **options))

        def os_opening(file: Any, flags: int, *more: Any, **options: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._operation(f"open {file}")
            return real_os_open(file, flags, *more, **options)

        # `Path.open` and `Path.write_text` take it from there.
        monkeypatch.setattr(io, "open", opening)
        monkeypatch.setattr(os, "open", os_opening)
        for name in ("mkdir", "fsync", "write"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), name, lasting=True))
        for name in ("rename", "replace"):
            # A disk that refuses one name does not refuse to give back another.
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), name, lasting=False))

        real_serialize = safetensors.serialize_file

        def serialize(specs: Any, file: Path) -> None:
            real_serialize(specs, file)
            try:
                self._operation(f"write {file}")
            except OSError as error:
                os.truncate(file, file.stat().st_size // 2)
                text = f"I/O error: {error.strerror} (os error {error.errno})"
                raise safetensors.SafetensorError(text) from None

        monkeypatch.setattr(safetensors, "serialize_file", serialize)

    def _operation(self, what: str, *, lasting: bool = True) -> None:
        self.operations.append(what)
        count = len(self.operations)
        if self._at is not None and (count >= self._at if lasting else count == self._at):
            raise OSError(self._number, os.strerror(self._number))

    def _failing(self, real: Callable[..., Any], name: str, *, lasting: bool) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._operation(name, lasting=lasting)
            return real(*arguments, **options)

        return call

    def _watched(self, stream: Any) -> Any:
        """A stream that takes half of what it is given when its time has come."""
        real = stream.write

        def write(content: Any) -> Any:
            try:
                self._operation("write")
            except OSError:
                real(content[: len(content) // 2])
                raise
            return real(content)

        stream.write = write
        return stream
