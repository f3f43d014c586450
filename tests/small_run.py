"""Runs inside this process, and what of a run must be the same to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.rundir import checkpoint
from mtlcli.runner.job import run
from tests.pinned import FORMAT

STEPS = 16
SMALL = [
    *(
        "task=[cola,stsb,rte]",
        "data=sample",
        "model=tiny",
        "model.layers=1",
        "model.hidden=16",
        "model.heads=2",
        "model.dropout=0.1",
    ),
    *(
        "data.max_length=32",
        "data.max_train_rows=20",
        "data.max_eval_rows=8",
        "runner.batch_size=6",
        "runner.accumulation=2",
    ),
    *(
        f"runner.steps={STEPS}",
        "runner.eval_every=5",
        "runner.save_every=2",
        "runner.keep=100",
        "logger.every=3",
        "logger.console=plain",
    ),
    *("runner.device=cpu", "runner.threads=1", FORMAT),
]
"""Three epochs of 4 batches of each task: epochs end inside, windows of the log lie across
checkpoints."""
TIMES = {"examples_per_s", "tokens_per_s", "seconds", "seconds_left", "throughput", "peak_memory"}


def start(folder: Path, *options: str, model: Path | None = None) -> Path:
    """Run from the beginning to the end. `model`: the folder of a pretrained model."""
    small = SMALL
    if model is not None:
        sizes = ("model=", "model.layers", "model.hidden", "model.heads")
        small = [each for each in SMALL if not each.startswith(sizes)]
        small += ["model=pretrained", f"model.name={model}"]
    config = preflight(read_arguments([*small, *options])).configs[0]
    run(config, folder, command=["mtl"])
    return folder


def resume(place: Path, *options: str) -> Path:
    """Go on from a run folder or one of its checkpoints."""
    plan = preflight(read_arguments([f"resume={place}", *options]))
    assert plan.resumes is not None
    folder = checkpoint.run_of(plan.resumes)
    run(plan.configs[0], folder, command=["mtl"], resumes=plan.resumes)
    return folder


def cut_off(whole: Path, last: str, folder: Path) -> Path:
    """A copy of a run folder in which the checkpoint named `last` is the newest."""
    shutil.copytree(whole, folder)
    for each in checkpoint.folders(folder / "checkpoints"):
        if each.name > last:
            shutil.rmtree(each)
    return folder


def without_times(value: Any) -> Any:
    """A JSON value without what a clock has measured."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def differences(one: Path, other: Path, steps: int = STEPS) -> list[str]:
    """What differs between two runs of `steps` steps that ought to be the same; checkpoints of the
    last step, rows, results."""
    found = []
    last = f"checkpoints/step_{steps:08d}"
    for file in ("model.safetensors", "optimizer.safetensors"):
        first, second = load_file(one / last / file), load_file(other / last / file)
        found += (
            [file]
            if first.keys() != second.keys()
            else [f"{file}: {key}" for key in first if not torch.equal(first[key], second[key])]
        )
    for file in (f"{last}/state.json", "results.json"):
        first, second = (
            without_times(json.loads((folder / file).read_text())) for folder in (one, other)
        )
        found += [f"{file}: {key}" for key in first if first[key] != second.get(key)] + [
            key for key in second if key not in first
        ]
    rows = [
        [
            without_times(json.loads(line))
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (one, other)
    ]
    if rows[0] != rows[1]:
        found.append(
            f"metrics.jsonl: {[row['step'] for row in rows[0]]} and "
            f"{[row['step'] for row in rows[1]]}"
        )
    return found
