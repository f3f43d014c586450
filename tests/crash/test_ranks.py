"""Two ranks of which one dies, fails or freezes: all are gone soon, the first line names who and
why, and the last checkpoint is good."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mtlcli import pulse
from mtlcli.errors import RunError, UserError
from mtlcli.rundir import checkpoint
from tests.ranks import (
    RUN,
    alive,
    at_step,
    begin,
    gone,
    outside,
    ranks_of,
    rows,
    signal_self,
    until,
    wait_for,
)
from tests.warm import ENVIRONMENT, ROOT, mtl


def raise_error() -> None:
    """Fail as a bug would."""
    raise ValueError("the lights went out")


def fill_the_disk() -> None:
    """Let no checkpoint be written any more."""

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoint._write = full


def freeze() -> None:
    """Stop again and again: a shell that ends may wake a stopped process of its group."""
    while True:
        signal_self(signal.SIGSTOP)


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "killed": (partial(signal_self, signal.SIGKILL), " was killed by SIGKILL"),
    "raising": (raise_error, " failed: ValueError: the lights went out"),
    "ending": (partial(os._exit, 0), " ended with exit code 0 before the run did"),
    "exiting": (partial(sys.exit, 3), " ended with exit code 3 before the run did"),
    "unable to save": (
        fill_the_disk,
        " failed: the checkpoint cannot be written: No space left on device (needs ",
    ),
    "frozen": (freeze, " did not answer within {timeout} s (runner.timeout) and was killed"),
}
CASES = [
    ("unable to save", 0, 600),
    *[(name, rank, 600) for name in ("killed", "raising", "ending", "exiting") for rank in (0, 1)],
    *[("frozen", rank, 10) for rank in (0, 1)],
]


@pytest.mark.parametrize(("name", "rank", "timeout"), CASES)
def test_a_fault_of_one_rank_ends_all(tmp_path: Path, name: str, rank: int, timeout: int) -> None:
    fault, cause = FAULTS[name]
    go, folder = tmp_path / "go", tmp_path / "run"
    process = begin(
        folder,
        "runner.steps=100000",
        f"runner.timeout={timeout}",
        before=at_step(15, rank, partial(wait_for, go), fault),
    )
    until(
        process, lambda: rows(folder) >= 15 and (folder / "checkpoints" / "step_00000010").exists()
    )
    ranks = ranks_of(process)
    assert len(ranks) == 2
    go.touch()
    # Only a rank that hangs is waited for as long as `timeout`.
    seconds = gone(ranks)
    assert seconds is not None, [alive(pid) for pid in ranks]
    assert process.wait() == 1
    print(f"{name}, rank {rank}: all gone after {seconds:.1f} s")
    title, first, *_ = process.stderr.splitlines()
    assert title == "mtl train: 1 problem"
    assert (
        f"rank {rank} (process {ranks[rank]} on {platform.node()}){cause.format(timeout=timeout)}"
        in first
    ), process.stderr
    newest, skipped = checkpoint.newest(folder / "checkpoints")
    assert (
        newest.step == 10 and skipped == [] and len(checkpoint.folders(folder / "checkpoints")) == 1
    )
    assert f"go on from step_00000010: mtl train resume={folder}" in process.stderr
    assert "Traceback" not in process.stderr
    assert ("ValueError: the lights went out" in (folder / "log.txt").read_text()) == (
        name == "raising"
    )
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed" and f"rank {rank}" in status["reason"]


def test_a_rank_that_woke_up_too_late_does_not_blame_the_one_that_waited(
    tmp_path: Path,
) -> None:
    """Both have lost another rank then: nobody can tell who was slow, and nobody is blamed."""
    folder = tmp_path / "run"
    process = begin(
        folder,
        "runner.steps=100000",
        "runner.timeout=8",
        before=at_step(15, 0, partial(time.sleep, 9)),
    )
    assert process.wait() == 1
    assert (
        "lost another rank, or waited for it for longer than 8 s (runner.timeout): "
        in process.stderr
    )
    assert " failed: " not in process.stderr and "Traceback" not in process.stderr
    assert (
        "look for a rank that was stopped or got no processor time, or raise runner.timeout; go on "
        "from "
        f"step_00000010: mtl train resume={folder}" in process.stderr
    )


def test_two_ranks_that_are_both_stopped(tmp_path: Path) -> None:
    """No rank is left to notice it: the launcher does."""
    before = (at_step(15, 0, freeze), at_step(15, 1, freeze))
    process = begin(tmp_path, "runner.steps=100000", "runner.timeout=8", before=before)
    assert process.wait() == 1
    first = process.stderr.splitlines()[1]
    assert re.search(
        r"rank [01] \(process .*\) did not answer within 8 s \(runner.timeout\) and was killed",
        first,
    )
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"


def notice_sooner() -> None:
    """Take two seconds without a sign of life for a standstill."""
    pulse.STILL = 2.0


def test_a_run_of_one_process_says_for_how_long_it_was_stopped(tmp_path: Path) -> None:
    """Nobody watches it: it waits, and log.txt tells why a step took so long."""
    process = begin(tmp_path, "runner.steps=100000", devices=1, before=notice_sooner)
    until(process, lambda: rows(tmp_path) >= 1)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(5)
    os.kill(process.pid, signal.SIGCONT)
    told = re.compile(
        r"note: the process stood still for \d+ s: it was stopped \(SIGSTOP, Ctrl-Z\)"
    )
    until(process, lambda: told.search((tmp_path / "log.txt").read_text()) is not None)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143


def find_a_mistake() -> None:
    """Fail as a rank does that finds a mistake of the user."""
    raise UserError("the weights are those of another model", "model.name", "name another")


def lose_the_disk() -> None:
    """Fail as a rank does that finds something broken."""
    raise RunError("the disk is gone", "there", "look at it")


BLOCK = (
    "mtl train: 1 problem\n  model.name: the weights are those of another model\n      -> name "
    "another\n"
)


def test_a_mistake_of_the_user_that_only_a_rank_can_find(tmp_path: Path) -> None:
    """As with one device: one block, exit code 2, and no folder of a run that has not begun."""
    folder = tmp_path / "run"
    process = begin(folder, "runner.steps=20", before=at_step(0, 1, find_a_mistake))
    assert process.wait() == 2
    assert process.stderr == BLOCK and not folder.exists()


@pytest.mark.parametrize("finders", [(0, 1), (1,)])
def test_a_mistake_of_the_user_that_ranks_of_another_launcher_find(
    tmp_path: Path, finders: tuple[int, ...]
) -> None:
    """As under torchrun or SLURM: the first rank says it, also when only another one has found
    it."""
    folder = tmp_path / "run"
    before = tuple(at_step(0, rank, find_a_mistake) for rank in finders)
    ranks = outside(folder, "runner.steps=20", before=before)
    assert [rank.wait() for rank in ranks] == [2, 2]
    assert [rank.stderr for rank in ranks] == [BLOCK, ""] and not folder.exists()


def test_what_another_rank_has_failed_of_is_said_by_the_first(tmp_path: Path) -> None:
    ranks = outside(tmp_path / "run", "runner.steps=20", before=at_step(15, 1, lose_the_disk))
    assert [rank.wait() for rank in ranks] == [1, 1]
    said = "mtl train: 1 problem\n  there: rank 1: the disk is gone\n      -> look at it\n"
    assert [rank.stderr for rank in ranks] == [said, ""]


def listening(pid: int) -> set[str]:
    """The local addresses, in hexadecimal, at which a process listens."""
    own = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return {
        words[1].partition(":")[0]
        for words in lines
        if words[3] == "0A" and f"socket:[{words[9]}]" in own
    }


def test_ranks_of_one_machine_listen_to_that_machine_alone(tmp_path: Path) -> None:
    process = begin(tmp_path, "runner.steps=100000")
    until(process, lambda: rows(tmp_path) >= 1)
    found = {address for pid in (process.pid, *ranks_of(process)) for address in listening(pid)}
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert found and found <= {"0100007F", "00000000000000000000000001000000"}, "127.0.0.1 or ::1"


def test_a_killed_launcher_leaves_no_rank_and_the_folder_is_taken_while_one_lives(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    process = begin(folder, "runner.steps=100000", before=at_step(15, 0, partial(time.sleep, 4)))
    until(
        process, lambda: rows(folder) >= 15 and (folder / "checkpoints" / "step_00000010").exists()
    )
    ranks = ranks_of(process)
    # Frozen, so that it cannot see that the launcher has gone: it may still write.
    os.kill(ranks[0], signal.SIGSTOP)
    process.kill()
    process.wait()
    assert gone(ranks[1:]) is not None
    refused = mtl("train", f"resume={folder}")
    assert refused.returncode == 2 and "another run is writing here: process" in refused.stderr
    os.kill(ranks[0], signal.SIGCONT)
    seconds = gone(ranks)
    assert seconds is not None
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["reason"]) == (
        "failed",
        f"the launcher (process {process.pid}) was killed",
    )
    print(f"launcher killed: all gone after {seconds:.1f} s")
    allowed = mtl(
        "train",
        f"resume={folder}",
        "runner.devices=1",
        "runner.steps=16",
        "allow=[runner.steps,runner.devices]",
    )
    assert allowed.returncode == 0, allowed.stderr
    assert "runner.devices: 2 -> 1: changed, as allowed" in allowed.stdout


def is_rank(pid: int) -> bool:
    """Whether a process was started for a rank; the launcher has others for a moment."""
    try:
        return b"runner.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # It has ended.
        return False


def test_ranks_that_are_not_forked_and_never_get_past_their_imports(tmp_path: Path) -> None:
    """The launcher as users have it: ranks are new processes. A signal that comes before they can
    hear it is kept for them."""
    command = [
        sys.executable,
        "-m",
        "mtlcli",
        "train",
        *RUN,
        "runner.devices=2",
        f"run_dir={tmp_path / 'run'}",
        "runner.steps=30",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT
    )
    while sum(map(is_rank, ranks_of(process))) < 2:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 143 and "interrupted by SIGTERM and saved at step 0" in errors, (
        errors
    )
    command = [sys.executable, "-m", "mtlcli", "train", f"resume={tmp_path / 'run'}"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, timeout=200
    )
    assert done.returncode == 0 and re.search(r"2 x cpu", done.stdout), done.stderr
