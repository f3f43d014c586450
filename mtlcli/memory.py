"""The memory that this process holds, and the memory that it can still take.

psutil reads what the system reports. Two things are read here by hand, since psutil does not know
them: the limits of control groups (Linux containers), and the peak of resident memory since the
count was last reset.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

import psutil

CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Files about the memory of a container, in both versions of control groups: the limit, the memory
in use, and the key of the part of it that the system can drop."""


def free_memory() -> int:
    """Return the number of bytes that are free for this process, the smallest of those of the
    machine, its container and `ulimit -v`."""
    found = [psutil.virtual_memory().available]
    for limit, used, droppable in CGROUPS:
        with suppress(OSError, ValueError):  # Without a limit, the file is missing or holds "max".
            root = Path("/sys/fs/cgroup")
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
            statistics = dict(line.split() for line in lines)
            taken = int((root / used).read_text()) - int(statistics.get(droppable, 0))
            found.append(int((root / limit).read_text()) - taken)
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:
        found.append(allowed - psutil.Process().memory_info().vms)
    return max(min(found), 0)


def resident() -> int:
    """Return the number of bytes of resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def resident_peak(process: int | str = "self") -> int | None:
    """Return the most resident memory that a process has held since the system's count was last
    reset, in bytes; None where the system does not report it."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
