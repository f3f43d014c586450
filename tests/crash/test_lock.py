"""One of two runs in one folder gets the lock; the other one names the holder. The lock ends with
the process that holds it."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mtlcli.cli.train import check_unused
from mtlcli.errors import UserError
from mtlcli.rundir.folder import RunFolder
from mtlcli.rundir.lock import NAME, FolderLock
from tests.ranks import at_step, begin, fork_ranks, gone, ranks_of, rows, signal_self, until
from tests.warm import Process, mtl, start

HOLD = at_step(4, 0, partial(time.sleep, 600))
"""The winner stays in a step until the test has seen the loser."""


def one_wins(first: Process, second: Process) -> Process:
    """Wait for the loser, look at what it says, and return the winner."""
    deadline = time.monotonic() + 100
    while first.poll() is None and second.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    winner, loser = (first, second) if first.poll() is None else (second, first)
    assert loser.wait() == 2, loser.stderr
    assert (
        f"another run is writing here: process {winner.pid} on {platform.node()}" in loser.stderr
    ), loser.stderr
    assert winner.poll() is None
    return winner


@pytest.mark.parametrize(
    ("devices", "resuming", "times"),
    [(1, False, 3), (1, True, 3), (2, False, 2), (2, True, 2)],
)
def test_of_two_at_once_one_wins(tmp_path: Path, devices: int, resuming: bool, times: int) -> None:
    for number in range(times):
        folder = tmp_path / str(number)
        options = ["runner.steps=8", "runner.save_every=2"]
        if resuming:
            stopped = begin(
                folder,
                *options,
                before=at_step(3, 0, partial(signal_self, signal.SIGTERM)),
                devices=devices,
            )
            assert stopped.wait() == 143, stopped.stderr
            both = [start("train", f"resume={folder}", before=(fork_ranks, HOLD)) for _ in range(2)]
        else:
            both = [begin(folder, *options, before=HOLD, devices=devices) for _ in range(2)]
        winner = one_wins(*both)
        until(winner, lambda folder=folder: rows(folder) >= 4)
        everyone = [winner.pid, *(ranks_of(winner) if devices > 1 else [])]
        # Killed: nothing has to be cleaned up by hand, and nothing is written any more once the
        # lock is free.
        winner.kill()
        assert gone(everyone) is not None
        assert json.loads((folder / NAME).read_text())["pid"] == winner.pid
        done = mtl("train", f"resume={folder}", before=fork_ranks)
        assert done.returncode == 0, done.stderr
    print(f"{times} of {times}: devices={devices} resuming={resuming}")


def test_ranks_share_the_lock_and_give_it_back(tmp_path: Path) -> None:
    process = begin(tmp_path, "runner.steps=8", before=HOLD)
    until(process, lambda: rows(tmp_path) >= 4)
    with pytest.raises(UserError, match=f"process {process.pid} on "):
        FolderLock(tmp_path).take()
    process.kill()
    process.wait()
    # Rank 0 needs a second to see that the launcher is gone.
    deadline = time.monotonic() + 60
    while True:
        try:
            FolderLock(tmp_path).take()
            break
        except UserError:
            assert time.monotonic() < deadline


def test_a_folder_of_something_else_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    for restart in (False, True):
        with pytest.raises(UserError, match="not empty"):
            RunFolder(tmp_path).create(restart=restart)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_used_folder_says_who_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    lock = FolderLock(tmp_path)
    lock.take()
    for refused in (
        lambda: RunFolder(tmp_path).create(),
        lambda: check_unused(tmp_path),
        RunFolder(tmp_path).reopen,
    ):
        with pytest.raises(
            UserError, match=f"another run is writing here: process {os.getpid()} on "
        ):
            refused()
    lock.release()
    with pytest.raises(UserError, match="not empty"):
        check_unused(tmp_path)


def test_a_lock_file_that_was_deleted_lets_nobody_else_in(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.take()
    (tmp_path / NAME).unlink()
    (tmp_path / "status.json").write_text(json.dumps({"status": "running", "pid": os.getpid()}))
    for _ in range(2):
        with pytest.raises(UserError, match=f"another run is writing here: process {os.getpid()}"):
            FolderLock(tmp_path).take()
    lock.release()
    FolderLock(tmp_path).take()


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("important")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(other)
    with pytest.raises(UserError, match="the folder cannot be locked"):
        FolderLock(tmp_path / "run").take()
    assert other.read_text() == "important"
