"""Processes that scripts/bench/speed.py measures, and what it makes of their numbers."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from speed_data import GLUE, ROOT

from mtlcli.memory import resident_peak
from mtlcli.models.precision import choose_precision

BATCH = 32
MAX_LENGTH = 128
SKIP = 5
"""Steps of a run of mtl that are not counted: the first ones allocate."""
WORKER = Path(__file__).with_name("speed_worker.py")


@dataclass
class Ended:
    """A process that has ended."""

    begin: float
    """When it was started (seconds since the epoch)."""
    peak: int
    """Most resident memory, bytes."""
    first_step: float | None
    """When the first step of a run of mtl began, seconds since the start."""


class Bench:
    """What all sections need: a temporary folder, processes, the command line's choices."""

    def __init__(self, arguments: argparse.Namespace, temporary: Path) -> None:
        self.data: Path = arguments.data.resolve()
        self.quick: bool = arguments.quick
        self.rounds: int = arguments.rounds
        self.device: str = arguments.device
        self.temporary = temporary
        found = [name for name in GLUE if (self.data / "glue" / name / "train.parquet").exists()]
        if not {"rte", "mrpc"} <= set(found):
            sys.exit(f"{self.data}/glue needs at least rte/train.parquet and mrpc/train.parquet")
        self.tasks = found[:2] if self.quick else found
        self.precision = choose_precision(arguments.precision, torch.device("cpu"))
        self._number = 0

    def say(self, message: str) -> None:
        """Progress, beside the table."""
        print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)

    def fresh(self, name: str) -> Path:
        """A path in the temporary folder that nobody has used."""
        self._number += 1
        return self.temporary / f"{name}-{self._number}"

    def watch(
        self, command: Sequence[str], *, run_dir: Path | None = None, caches: Path | None = None
    ) -> Ended:
        """Run a command to its end, with an eye on its memory and, in `run_dir`, on the first row
        of metrics.jsonl."""
        caches = caches or self.temporary / "caches"
        environment = os.environ | {
            "MTL_CACHE": str(caches / "mtl"),
            "HF_DATASETS_CACHE": str(caches / "datasets"),
        }
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        log = self.fresh("log")
        peak, first_step = 0, None
        begin = time.time()
        with ExitStack() as stack, log.open("w") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
            )
            # When the benchmark is stopped, nothing of it goes on.
            stack.callback(process.kill)
            while process.poll() is None:
                # Read again and again: mtl has the kernel count anew when training begins.
                peak = max(peak, resident_peak(process.pid) or 0)
                if run_dir is not None and first_step is None:
                    seconds = _seconds_of_first_row(run_dir / "metrics.jsonl")
                    first_step = None if seconds is None else time.time() - begin - seconds
                time.sleep(0.02)
        if process.returncode:
            sys.exit(
                f"{' '.join(command)}\n{log.read_text()[-4000:]}\nfailed with exit code "
                f"{process.returncode}"
            )
        return Ended(begin, peak, first_step)

    def work(self, kind: str, job: dict[str, Any], **more: Any) -> tuple[dict[str, Any], Ended]:
        """What a worker measured."""
        file, report = self.fresh("job"), self.fresh("report")
        file.write_text(json.dumps(job | {"out": str(self.fresh("trainer"))}))
        ended = self.watch([sys.executable, str(WORKER), kind, str(file), str(report)], **more)
        return json.loads(report.read_text()), ended

    def train(
        self, tasks: Sequence[str], steps: int, *options: str, hook: str | None = None, **more: Any
    ) -> tuple[Any, Any, Ended]:
        """`mtl train` on MiniLM: the rows of metrics.jsonl (one a step unless `logger.every` is
        given), what `hook` measured, the end."""
        run_dir, report = self.fresh("run"), self.fresh("report")
        start = (
            [sys.executable, "-m", "mtlcli"]
            if hook is None
            else [sys.executable, str(WORKER), "mtl", hook, str(report)]
        )
        command = [
            "train",
            f"task=[{','.join(tasks)}]",
            "model=minilm",
            "model.pooling=pooler",
            "data=local",
            f"data.root={self.data}",
            f"run_dir={run_dir}",
        ]
        command += [
            f"runner.steps={steps}",
            "runner.eval_every=1000000",
            "data.max_eval_rows=8",
            "logger.every=1",
            "logger.console=plain",
        ]
        command += [
            f"data.max_length={MAX_LENGTH}",
            f"runner.precision={self.precision}",
            "runner.device=cpu",
        ]
        chosen = dict(option.split("=", 1) for option in [*command[1:], *options])
        ended = self.watch(
            [*start, "train", *(f"{key}={value}" for key, value in chosen.items())],
            run_dir=run_dir,
            **more,
        )
        metrics = [
            json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()
        ]
        shutil.rmtree(run_dir)
        return metrics, json.loads(report.read_text()) if hook else None, ended


def _seconds_of_first_row(metrics: Path) -> float | None:
    """How long the first step took; None while it goes on."""
    text = metrics.read_text() if metrics.exists() else ""
    return float(json.loads(text.splitlines()[0])["seconds"]) if "\n" in text else None


@dataclass
class Speed:
    """What the rows of a run of mtl come to."""

    seconds: float = 0.0
    examples: int = 0
    tokens: float = 0.0
    padded: float = 0.0
    steps: int = 0

    def add(self, row: dict[str, Any], steps: int) -> None:
        """A row of metrics.jsonl that stands for some steps."""
        examples = sum(entry["examples"] for entry in row["tasks"].values())
        seconds = examples / row["examples_per_s"]
        self.steps += steps
        self.seconds += seconds
        self.examples += examples
        self.tokens += seconds * row["tokens_per_s"]
        self.padded += seconds * row["tokens_per_s"] / (1 - row["padding"])


def speed(metrics: list[dict[str, Any]], skip: int) -> Speed:
    """All rows after the first `skip`."""
    total = Speed()
    ends = [0, *(row["step"] for row in metrics)]
    for number, row in enumerate(metrics[skip:], skip):
        total.add(row, ends[number + 1] - ends[number])
    return total


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """GitHub markdown."""
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))
        + "\n"
    )


def spread(values: Sequence[float], digits: int = 2) -> str:
    """A median with what it varied by."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
