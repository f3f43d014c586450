"""One rank of tests/long/test_resume_two_ranks.py: a whole run, then one from each of its
checkpoints. Not a test itself.

Both ranks stay up for all of it: RANK, WORLD_SIZE and the like are in the environment, as torchrun
sets them.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from mtlcli.rundir import checkpoint
from tests.small_run import resume, start


def main(place: str, *options: str) -> None:
    """Make `whole` and, for each checkpoint but the last, `from_<checkpoint>` in the folder
    `place`. Ends the process."""
    whole = start(Path(place) / "whole", "runner.timeout=60", *options)
    ready = Path(place) / "ready"
    if os.environ["RANK"] == "0":
        # The other rank may be here before the last checkpoint is.
        names = [folder.name for folder in checkpoint.folders(whole / "checkpoints")][:-1]
        for name in names:
            broken = Path(place) / f"from_{name}"
            shutil.copytree(whole, broken)
            for folder in checkpoint.folders(broken / "checkpoints"):
                if folder.name > name:
                    shutil.rmtree(folder)
        ready.with_suffix(".new").write_text(" ".join(names))
        ready.with_suffix(".new").rename(ready)
    while not ready.exists():
        time.sleep(0.01)
    for name in ready.read_text().split():
        resume(Path(place) / f"from_{name}")
    sys.exit(0)
