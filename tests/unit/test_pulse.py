"""What is being done is shown to a user who waits, by the clock and never at the cost of a
result."""

from __future__ import annotations

import time

import pytest

from mtlcli import pulse
from mtlcli.errors import RunError
from mtlcli.pulse import Pulse, doing


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "FIRST", 0.0)
    monkeypatch.setattr(pulse, "LONGEST", 0.0)
    monkeypatch.setattr(pulse, "BEAT", 0.001)


def wait_for(lines: list[str], wanted: str) -> None:
    until = time.monotonic() + 60
    while wanted not in lines:
        assert time.monotonic() < until, lines
        time.sleep(0.001)


def test_the_activity_is_shown_repeatedly_until_it_ends() -> None:
    lines: list[str] = []
    with Pulse("plain") as shown:
        shown.through(lines.append)
        doing("reading", 1, 1200, "split")
        wait_for(lines, "... reading: 1 of 1,200 splits")
        doing("loading the model")
        wait_for(lines, "... loading the model")
        doing("")
        time.sleep(0.05)
        count = len(lines)
        time.sleep(0.05)
        assert len(lines) == count
    assert pulse.pulse() is None
    doing("more")
    assert pulse.present() == "more"


def test_an_output_that_cannot_be_written_ends_the_pulse_and_not_the_run() -> None:
    said = []

    def fail(line: str) -> None:
        said.append(line)
        raise RunError("the disk is full")

    with Pulse("plain") as shown:
        shown.through(fail)
        doing("reading")
        wait_for(said, "... reading")
        time.sleep(0.05)
    assert len(said) == 1
