"""One of two ranks of tests/long/test_resume_layouts.py: a whole run on shards, and one that goes
on from a checkpoint in another layout again and again. Not a test itself.

Both ranks stay up for all of it: RANK, WORLD_SIZE and the like are in the environment, as torchrun
sets them.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.small_run import cut_off, resume, start

STEPS = 8
OPTIONS = [
    *("runner.engine=fsdp", "runner.timeout=60", f"runner.steps={STEPS}", "runner.save_every=2"),
    *("runner.eval_every=8", "sharing=soft", "sharing.strength=0.01", "sampling=all"),
    # Masks depend on the layout. A larger eps keeps Adam from blowing up gradients near zero.
    *("model.dropout=0", "optim.eps=1e-4"),
]
LAYOUTS = {2: ("ddp", 2), 4: ("ddp", 1), 6: ("fsdp", 2)}
"""Step -> the engine and the number of ranks with which the run goes on from there."""
ALONE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE")


def main(place: str) -> None:
    """Make `whole`, and for each step of `LAYOUTS` a folder of that name, in the folder `place`.
    Ends the process."""
    folder, rank = Path(place), os.environ["RANK"]
    start(folder / "whole", *OPTIONS)
    before = folder / "whole"
    for step, (engine, devices) in LAYOUTS.items():
        options = [f"runner.engine={engine}", f"runner.devices={devices}"]
        ready = folder / f"{step} is ready"
        if rank == "0":
            cut_off(before, f"step_{step:08d}", folder / str(step))
            if devices == 1:
                for name in ALONE:
                    os.environ[f"_{name}"] = os.environ.pop(name)
                resume(folder / str(step), *options)
                for name in ALONE:
                    os.environ[name] = os.environ.pop(f"_{name}")
            ready.touch()
        while not ready.exists():
            time.sleep(0.01)
        if devices > 1:
            resume(folder / str(step), *options)
        before = folder / str(step)
    sys.exit(0)
