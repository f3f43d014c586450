"""Memory that is freed while a process works stays with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from mtlcli.fast.freed_memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(20):
    blocks = [b"." * (size << 20) for size in (1, 3, 2, 1) * 5]
    del blocks
print(faults() - before)
"""


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
