"""The memory that this process can still take."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

CGROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
"""Files about the memory of a container, in both versions of control groups: the limit, the memory
in use, and the key of the part of it that the system can drop."""


def free_memory() -> int | None:
    """Return the number of bytes that are free for this process, the smallest of those of the
    machine, its container and `ulimit -v`; None when unknown."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    if not found:
        return None
    for limit, used, droppable in CGROUPS:
        with suppress(OSError, ValueError):  # Without a limit, the file is missing or holds "max".
            root = Path("/sys/fs/cgroup")
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
            statistics = dict(line.split() for line in lines)
            taken = int((root / used).read_text()) - int(statistics.get(droppable, 0))
            found.append(int((root / limit).read_text()) - taken)
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        found.append(allowed - pages * resource.getpagesize())
    return max(min(found), 0)
