"""What a save costs beside `torch.save`, side by side in one run.

The state is that of a model with AdamW: weights and two moments. Arms, alternating within each
round, all into the same folder: `torch.save` as it is mostly called (the operating system may still
hold everything in memory), `torch.save` with the file flushed to the disk, the checkpoint written
and read back while training waits, and in the background: how long the call blocks, and how much
training is slowed down afterwards. For that a loop of small steps runs beside it: what its steps
take longer than without a save is counted (on one core that is all that the save computes). CPU
time is given too, which a busy machine disturbs less.

    python scripts/bench/saving.py # 36 MB, 9 rounds, in a new folder below the current one
    python scripts/bench/saving.py --megabytes 400 --rounds 5 --folder /mnt/scratch
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mtlcli.rundir.saver import Saver

LAYERS = 24
"""Tensors of the model; its optimiser has twice as many."""


def state_of(megabytes: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and moments of about this size together."""
    count = int(megabytes * 1e6 / 4 / 3 / LAYERS)
    generator = torch.Generator().manual_seed(0)
    model = {
        f"layer{number}.weight": torch.randn(count, generator=generator) for number in range(LAYERS)
    }
    moments = {
        f"layer{number}.weight/{part}": torch.randn(count, generator=generator)
        for number in range(LAYERS)
        for part in ("m", "v")
    }
    return model, moments


@dataclass
class Cost:
    """Seconds."""

    wall: float
    cpu: float


def cost(work: Callable[[], None]) -> Cost:
    """What it takes, in all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - start, time.process_time() - cpu)


class Bench:
    """The arms over one state."""

    def __init__(self, megabytes: float, folder: Path) -> None:
        self.model, self.moments = state_of(megabytes)
        self.folder = folder
        self.saver = Saver(folder / "checkpoints", keep=1)
        self.step = 0
        self.left, self.right = torch.randn(96, 96), torch.randn(96, 96)

    def plain(self, *, flush: bool) -> None:
        """torch.save into one file, replaced each time."""
        with (self.folder / "plain.pt").open("wb") as stream:
            torch.save({"model": self.model, "optimizer": self.moments}, stream)
            if flush:
                stream.flush()
                os.fsync(stream.fileno())

    def begin(self) -> None:
        """What the training loop does, and waits for, at each save."""
        self.step += 1
        self.saver.save(self.model, self.moments, {"step": self.step}, best=None)

    def small_step(self) -> None:
        """Some work of a training loop: half a millisecond or so of small products."""
        for _ in range(20):
            self.left @ self.right

    def background(self) -> tuple[Cost, Cost]:
        """What the call costs, and what the steps beside the write lose."""
        usual = statistics.median(cost(self.small_step).wall for _ in range(200))
        start = time.thread_time()
        blocked = cost(self.begin)
        blocked.cpu = time.thread_time() - start
        lost = 0.0
        while self.saver.busy:
            lost += max(0.0, cost(self.small_step).wall - usual)
        self.saver.wait()
        return blocked, Cost(lost, float("nan"))

    def synchronous(self) -> None:
        """A save that is waited for: copied, written, flushed, read back, the one before
        deleted."""
        self.begin()
        self.saver.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=36)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where to write: the disk matters"
    )
    arguments = parser.parse_args()
    arms: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="saving_", dir=arguments.folder) as folder:
        bench = Bench(arguments.megabytes, Path(folder))
        for number in range(arguments.rounds + 1):
            plain, flushed, waited = (
                cost(work)
                for work in (
                    lambda: bench.plain(flush=False),
                    lambda: bench.plain(flush=True),
                    bench.synchronous,
                )
            )
            blocked, lost = bench.background()
            if number:  # The first round warms up.
                for name, value in {
                    "torch.save": plain,
                    "torch.save, flushed": flushed,
                    "a save, waited for": waited,
                    "in the background: the call": blocked,
                    "  lost by steps beside it": lost,
                }.items():
                    arms.setdefault(name, []).append(value)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{arguments.megabytes:g} MB, {arguments.rounds} rounds, {cores} cores; medians, range, "
        "and ratio to torch.save"
    )
    print(f"{'':30}{'wall ms':>10}{'range':>16}{'ratio':>8}{'CPU ms':>12}{'ratio':>8}")
    walls = {name: [each.wall * 1e3 for each in values] for name, values in arms.items()}
    cpus = {name: [each.cpu * 1e3 for each in values] for name, values in arms.items()}
    for name in arms:
        wall, cpu = statistics.median(walls[name]), statistics.median(cpus[name])
        first, first_cpu = (
            statistics.median(walls["torch.save"]),
            statistics.median(cpus["torch.save"]),
        )
        spread = f"{min(walls[name]):.0f} to {max(walls[name]):.0f}"
        print(
            f"{name:30}{wall:10.1f}{spread:>16}{wall / first:8.2f}{cpu:12.1f}{cpu / first_cpu:8.2f}"
        )


if __name__ == "__main__":
    main()
