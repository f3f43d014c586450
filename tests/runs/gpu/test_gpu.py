"""Training, resuming and evaluating on a GPU, through the command. Skipped where there is none.

The tests compare with the CPU in fp32, to the rounding of the format that the GPU uses.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pinned import ENVIRONMENT, GPUS
from tests.runs.ddp.test_two_ranks import COMMON, losses
from tests.small_run import cut_off, differences

VISIBLE = {key: value for key, value in ENVIRONMENT.items() if key != "CUDA_VISIBLE_DEVICES"} | (
    {} if GPUS == "all" else {"CUDA_VISIBLE_DEVICES": GPUS}
)
SMALL = [
    *(each for each in COMMON if not each.startswith(("runner.precision=", "runner.device="))),
    "runner.save_every=10",
]
NO_WAIT = """
import sys
import torch
from mtlcli.cli import main
from mtlcli.training.trainer import Trainer

whole = Trainer.train_step

def train_step(self):
    torch.cuda.set_sync_debug_mode("error" if self.state.step >= 5 else "default")
    try:
        whole(self)
    finally:
        torch.cuda.set_sync_debug_mode("default")

Trainer.train_step = train_step
sys.exit(main(sys.argv[1:]))
"""
"""A run in which torch raises an error when the host waits in a step, from step 5 on."""
EAGER = """
import sys
from mtlcli.cli import main
from mtlcli.training import captured

captured.MOST = 0
sys.exit(main(sys.argv[1:]))
"""
"""A run whose steps are never recorded: each is launched kernel by kernel from the same places."""
REPLAYS = """
import sys
from mtlcli.cli import main
from mtlcli.training import captured

count, whole = 0, captured.Graph.replay

def replay(self):
    global count
    count += 1
    return whole(self)

captured.Graph.replay = replay
code = main(sys.argv[1:])
print("replayed:", count)
sys.exit(code)
"""
FIND = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


def command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=VISIBLE,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on the GPU in its own format."""
    folder = tmp_path_factory.mktemp("gpu") / "run"
    command("-m", "mtlcli", *SMALL, "runner.device=cuda", f"run_dir={folder}")
    return folder


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        shutil.which("nvidia-smi") is None or not int(command("-c", FIND)), reason="no GPU"
    ),
]


def test_losses_are_those_of_the_cpu(run: Path, tmp_path: Path) -> None:
    command(
        "-m",
        "mtlcli",
        *SMALL,
        "runner.device=cpu",
        "runner.precision=fp32",
        f"run_dir={tmp_path / 'cpu'}",
    )
    for (name, ours), (other, theirs) in zip(losses(run), losses(tmp_path / "cpu"), strict=True):
        assert name == other and abs(ours - theirs) < 0.06 * max(1.0, theirs)


def test_packed_batches_have_the_losses_of_padded_ones(run: Path, tmp_path: Path) -> None:
    padded = tmp_path / "padded"
    options = ("runner.device=cuda", "runner.packing=off", f"run_dir={padded}")
    command("-m", "mtlcli", *SMALL, *options)
    settled = [
        yaml.safe_load((each / "config.yaml").read_text())["runner"]["packing"]
        for each in (run, padded)
    ]
    assert settled == ["on", "off"]
    for (name, ours), (other, theirs) in zip(losses(run), losses(padded), strict=True):
        assert name == other and abs(ours - theirs) < 0.06 * max(1.0, theirs)


@pytest.mark.parametrize("weighting", ["static", "uncertainty"])
def test_the_host_waits_for_nothing_in_a_step(tmp_path: Path, weighting: str) -> None:
    options = ("runner.device=cuda", f"weighting={weighting}", f"run_dir={tmp_path / 'run'}")
    command("-c", NO_WAIT, *SMALL, *options)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["model.dropout=0.1", "sampling=all", "weighting=uncertainty", "optim.clip=0.5"],
        ["sharing=adapters", "sampling=proportional"],
    ],
    ids=["static", "uncertainty", "adapters"],
)
def test_recorded_steps_are_those_launched_kernel_by_kernel(
    tmp_path: Path, options: list[str]
) -> None:
    """To the bit, with the same dropout."""
    told = {}
    for name, code in (("eager", EAGER), ("recorded", REPLAYS)):
        folder = tmp_path / name
        told[name] = command(
            "-c", code, *SMALL, *options, "runner.device=cuda", f"run_dir={folder}"
        )
    assert int(told["recorded"].rpartition("replayed: ")[2]) >= 5
    assert differences(tmp_path / "eager", tmp_path / "recorded", 20) == []


def test_resume_goes_on_as_if_there_had_been_no_break(run: Path, tmp_path: Path) -> None:
    broken = cut_off(run, "step_00000010", tmp_path / "broken")
    command("-m", "mtlcli", "train", f"resume={broken}")
    assert differences(run, broken, 20) == []


def test_evaluation_gives_the_same_digits(run: Path, tmp_path: Path) -> None:
    command("-m", "mtlcli", "eval", str(run), "--json", str(tmp_path / "again.json"))
    again, results = (
        json.loads(path.read_text()) for path in (tmp_path / "again.json", run / "results.json")
    )
    assert again["tasks"] == results["tasks"] and again["precision"] == results["precision"]
