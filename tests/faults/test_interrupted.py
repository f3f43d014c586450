"""The real command, interrupted: what is saved, the exit code, and that the resumed run ends like the uninterrupted one."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
STEPS = 60
RUN = [
    *("task=[cola,rte]", "data=sample", "model=tiny", "model.dropout=0.1", "data.max_train_rows=200", "data.max_eval_rows=40"),
    *("runner.batch_size=8", f"runner.steps={STEPS}", "runner.eval_every=20", "logger.every=1", "runner.device=cpu"),
]


def command(*arguments: str, before: str = "") -> list[str]:
    code = f"{before}\nimport sys\nfrom mtlcli.__main__ import main\nsys.exit(main())"
    return [sys.executable, "-c", code, "train", *arguments]


def finish(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=200)


def begin(folder: Path, step: int, *arguments: str, before: str = "") -> subprocess.Popen[str]:
    """Start a run and return when metrics.jsonl has the row of `step`."""
    process = subprocess.Popen(
        command(*RUN, *arguments, f"run_dir={folder}", before=before),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 120
    rows = folder / "metrics.jsonl"
    while not (rows.exists() and rows.read_text().count("\n") >= step):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step_{STEPS:08d}" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("devices", "number", "code"), [(1, signal.SIGUSR1, 143), pytest.param(2, signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_saves_and_the_resumed_run_ends_the_same(tmp_path: Path, devices: int, number: int, code: int) -> None:
    options = [f"runner.devices={devices}"]
    assert finish(*RUN, *options, f"run_dir={tmp_path / 'whole'}").returncode == 0
    process = begin(tmp_path / "run", 7, *options)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    found = re.search(rf"interrupted by {signal.Signals(number).name} and saved at step (\d+)", errors)
    assert found and "Traceback" not in errors
    assert (tmp_path / "run" / "checkpoints" / f"step_{int(found[1]):08d}" / "manifest.json").exists()
    assert f"mtl train resume={tmp_path / 'run'}" in errors
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "interrupted"
    done = finish(f"resume={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "whole", tmp_path / "run")


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started for its ranks, in order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 2
    return ranks


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_a_killed_rank_ends_all_and_is_named(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", 25, "runner.devices=2", "runner.steps=100000")
    ranks = ranks_of(process)
    os.kill(ranks[1], signal.SIGKILL)
    assert gone(ranks, 10)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    first = [line for line in errors.splitlines() if line.strip()][1]
    assert re.search(rf"rank \d \(process {ranks[1]} on {re.escape(platform.node())}\) was killed by SIGKILL", first), errors
    assert "go on from step_00000020" in errors


def test_a_killed_launcher_leaves_no_rank_behind(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", 5, "runner.devices=2", "runner.steps=100000")
    ranks = ranks_of(process)
    process.kill()
    process.wait()
    assert gone(ranks, 10)


@pytest.mark.long
def test_a_frozen_rank_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    process = begin(tmp_path / "run", 5, "runner.devices=2", "runner.steps=100000", "runner.timeout=5")
    ranks = ranks_of(process)
    os.kill(ranks[1], signal.SIGSTOP)
    assert gone(ranks, 15)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and "Timed out" in errors


POISONED = """
import torch
from mtlcli.tasks.classification import Classification
whole = Classification.loss
calls = [0]
def loss(self, outputs, batch):
    calls[0] += self.name == "rte" and torch.is_grad_enabled()
    return whole(self, outputs, batch) * (float("nan") if self.name == "rte" and calls[0] == 5 else 1.0)
Classification.loss = loss
"""


def test_a_loss_that_is_no_number_stops_the_run_and_is_named(tmp_path: Path) -> None:
    options = [*RUN, "runner.save_every=1", "sampling=all", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command(*options, before=POISONED), capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"step 4: the loss of rte is nan \(train features \d+(, \d+){7}\)", done.stderr), done.stderr
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[-1] == "step_00000004"
    skipping = [*RUN, "runner.save_every=1", "sampling=all", "runner.skip_nonfinite=1", "runner.steps=8", f"run_dir={tmp_path / 'skip'}"]
    done = subprocess.run(command(*skipping, before=POISONED), capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "warning: step 4: the loss of rte is nan" in done.stdout and "the step is left out" in done.stdout
