"""Output that goes away, and output that was never there."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.ranks import at_step, begin
from tests.warm import ENVIRONMENT, ROOT, mtl


def lose_the_reader() -> None:
    """Write standard output into a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    os.close(writer)


def lose_the_terminal(step: int) -> None:
    """Write to a terminal that is closed in a step."""
    master, slave = os.openpty()
    os.dup2(slave, 1)
    os.dup2(slave, 2)
    os.close(slave)
    # Python's own streams were made for files, in which one can seek.
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(number, "w", closefd=False)  # noqa: PTH123, SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    at_step(step, 0, partial(os.close, master))()


def test_a_run_whose_reader_is_gone_goes_on(tmp_path: Path) -> None:
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        process = begin(folder, "runner.steps=3", before=lose_the_reader, devices=devices)
        assert process.wait() == 0, process.stderr
        assert process.stderr == ""
        log = (folder / "log.txt").read_text()
        assert (
            log.count("nobody reads standard output (Broken pipe) any more; the run goes on") == 1
        )
        assert "run folder: " in log, "log.txt has all of it"


@pytest.mark.parametrize("view", ["live", "plain"])
def test_a_run_whose_terminal_is_gone_goes_on(tmp_path: Path, view: str) -> None:
    options = ["runner.steps=6", f"logger.console={view}"]
    lose = partial(lose_the_terminal, 3)
    process = begin(tmp_path, *options, before=lose, devices=1, TERM="xterm")
    assert process.wait() == 0
    log = (tmp_path / "log.txt").read_text()
    assert (
        "nobody reads standard output (Input/output error) any more" in log
        and "run folder: " in log
    )


def test_a_full_disk_is_still_an_error(tmp_path: Path) -> None:
    code = (
        "from mtlcli.output import outlive_reader\noutlive_reader('stdout')\nprint('text', "
        "flush=True)"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            cwd=ROOT,
        )
    assert "No space left on device" in done.stderr


def test_streams_may_be_closed_from_the_start() -> None:
    """No file that is opened later gets the number of the output."""
    command = f"exec {sys.executable} -m mtlcli --version <&- >&- 2>&-"
    assert (
        subprocess.run(["bash", "-c", command], env=ENVIRONMENT, cwd=ROOT, check=False).returncode
        == 0
    )
    code = (
        "from mtlcli.output import fill_closed\nfill_closed()\nimport "
        "os\nos._exit(os.open(os.devnull, os.O_RDONLY))"
    )
    assert (
        subprocess.run(
            ["bash", "-c", f"exec {sys.executable} -c '{code}' <&- >&- 2>&-"], cwd=ROOT, check=False
        ).returncode
        > 2
    )


def test_the_reader_of_a_table_may_close_the_pipe() -> None:
    done = mtl("tasks", before=lose_the_reader)
    assert done.returncode == 141 and done.stderr == ""
