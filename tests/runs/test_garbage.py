"""Garbage is looked for seldom while a process starts, and memory that is freed while it works
stays with it."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from mtlcli import __main__, cli, garbage

PROGRAM = """
import gc, resource
from mtlcli import garbage
garbage.at_start()
assert gc.get_threshold() != garbage.USUAL
if {keep}:
    garbage.at_work()
    assert gc.get_threshold() == garbage.USUAL
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(20):
    blocks = [b"." * (size << 20) for size in (1, 3, 2, 1) * 5]
    del blocks
print(faults() - before)
"""


def test_garbage_is_collected_seldom_while_a_process_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "main", lambda: gc.get_threshold()[0])
    monkeypatch.setattr(gc, "freeze", lambda: None)
    try:
        assert __main__.main() >= 10 * garbage.USUAL[0]
    finally:
        gc.set_threshold(*garbage.USUAL)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_step_reuses_the_memory_that_the_last_one_freed() -> None:
    faults = {}
    for keep in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(keep=keep)],
            check=True,
            capture_output=True,
            text=True,
        )
        faults[keep] = int(done.stdout)
    # 35 MB of pages, once and not twenty times.
    assert 5 * faults[True] < faults[False], faults
