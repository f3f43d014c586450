"""A power cut: of everything that was written only that is left which was flushed to the disk."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from mtlcli.rundir import saver
from tests.small_run import STEPS, differences, resume, start


class Disk:
    """What would be left after a power cut: contents of files and names in folders as they were at
    their last fsync."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
        """`opened`: keeps the files and folders open that were flushed."""
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        plain = os.fsync

        def fsync(descriptor: int) -> None:
            plain(descriptor)
            # While it is open, no new file gets its inode, and with it its contents.
            opened.callback(os.close, os.dup(descriptor))
            path, number = Path(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_ino
            if path.is_dir():
                self._names[number] = {entry.name: entry.inode() for entry in os.scandir(path)}
            else:
                self._contents[number] = path.read_bytes()

        monkeypatch.setattr(os, "fsync", fsync)

    def left(self, number: int, place: Path) -> None:
        """Write what is left of the file or folder with an inode's number."""
        if number in self._names:
            place.mkdir()
            for name, inner in self._names[number].items():
                self.left(inner, place / name)
        else:
            place.write_bytes(self._contents.get(number, b""))


@pytest.mark.parametrize("saves", [1, 3])
def test_a_run_goes_on_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    run, after = tmp_path / "new" / "run", tmp_path / "after"
    with monkeypatch.context() as patch, ExitStack() as opened:
        disk, retain, count = Disk(patch, opened), saver.retain, 0

        def cut(*arguments: object, **options: object) -> None:
            """At the moment when a checkpoint is known to be good."""
            nonlocal count
            count += 1
            if count == saves:
                disk.left((tmp_path / "new").stat().st_ino, after)
            retain(*arguments, **options)  # type: ignore[arg-type]

        patch.setattr(saver, "retain", cut)
        start(run)
    resume(after / "run")
    assert differences(run, after / "run", steps=STEPS) == []
