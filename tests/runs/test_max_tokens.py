"""`runner.max_tokens=auto` through the command: a run uses the memory that there is and no more,
and keeps the number."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mtlcli import memory
from mtlcli.training import batch_size_finder
from mtlcli.training.trainer import Trainer
from tests.warm import mtl

RUN = [
    "task=[cola,rte]",
    "data=sample",
    *("model=tiny", "model.hidden=384", "model.heads=6", "model.layers=3", "model.dropout=0.1"),
    "data.max_train_rows=400",
    "data.max_eval_rows=16",
    "logger.every=1",
    "logger.console=plain",
]


def limit_memory(free: int) -> None:
    """Have `free` bytes of memory, and print the most that training held of it."""
    held: list[int] = []

    def free_memory(device: torch.device) -> int:
        held.append(memory.resident())
        return free

    batch_size_finder.free_memory = free_memory
    train = Trainer.train

    def watched(*arguments: Any) -> Any:
        done = train(*arguments)
        print("PEAK", memory.resident_peak() - held[-1])
        return done

    Trainer.train = watched  # type: ignore[method-assign]


def find_nothing() -> None:
    """Fail where a number is looked for."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    batch_size_finder.largest_batch = fail  # type: ignore[assignment]


@pytest.mark.parametrize("free", [300, 600])
def test_a_run_stays_below_what_is_free_and_uses_it(tmp_path: Path, free: int) -> None:
    run_within(tmp_path, free, "fp32")


def run_within(folder: Path, free: int, precision: str) -> None:
    """Run where `free` MB of memory are free, and look at the most that the run has held."""
    options = [
        *RUN,
        f"runner.precision={precision}",
        "runner.steps=3",
        "runner.batch_size=400",
        f"run_dir={folder / 'run'}",
    ]
    done = mtl(
        "train", *options, "runner.max_tokens=auto", before=partial(limit_memory, free * 2**20)
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("PEAK ")[1].split()[0]) / 2**20
    assert 0.4 * free < peak < free, done.stdout
    tokens = yaml.safe_load((folder / "run" / "config.yaml").read_text())["runner"]["max_tokens"]
    assert f"max_tokens: {tokens:,} padded tokens of a task in a step" in done.stdout
    # The number belongs to the run now, whatever memory there is later.
    again = mtl(
        "train",
        *options,
        "runner.max_tokens=auto",
        "resume=auto",
        before=find_nothing,
    )
    assert again.returncode == 0, again.stderr
    assert (
        yaml.safe_load((folder / "run" / "config.yaml").read_text())["runner"]["max_tokens"]
        == tokens
    )


def test_an_unknown_word_is_refused(tmp_path: Path) -> None:
    done = mtl("train", *RUN, f"run_dir={tmp_path / 'run'}", "runner.max_tokens=most")
    assert done.returncode == 2 and "runner.max_tokens" in done.stderr and "auto" in done.stderr, (
        done.stderr
    )
    assert not list(tmp_path.iterdir())
