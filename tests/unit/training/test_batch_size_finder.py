"""`runner.max_tokens=auto`: what is found fits, uses what is there, leaves no trace, and is the
run's from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mtlcli.data.batches import InputFormat
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import RunError
from mtlcli.training import batch_size_finder as fit
from tests.small import small_data, small_model
from tests.warm import mtl

ALONE = Ranks(0, 1, torch.device("cpu"))
WIDE = ["model=tiny", "model.hidden=384", "model.heads=6", "model.layers=3", "model.dropout=0.1"]
RUN = [
    "task=[cola,rte]",
    "data=sample",
    *WIDE,
    "data.max_train_rows=400",
    "data.max_eval_rows=16",
    "logger.every=1",
    "logger.console=plain",
]
LIMITED = """
from mtlcli import memory
from mtlcli.training import batch_size_finder as fit
from mtlcli.training.trainer import Trainer
held = {{}}
def free_memory(device):
    held["before"] = memory.resident()
    return {free}
fit.free_memory = free_memory
train = Trainer.train
def watched(*arguments):
    done = train(*arguments)
    print("PEAK", memory.resident_peak() - held["before"])
    return done
Trainer.train = watched
"""


def largest(**options: Any) -> tuple[int, str]:
    model, weighting = small_model("hard")
    features = small_data()[2]
    settings = {
        "input_format": InputFormat(0, True),
        "bf16": False,
        "accumulation": 1,
        "ranks": ALONE,
    } | options
    return fit.largest_batch(model, weighting, features, dict.fromkeys(features, 8), **settings)


def test_where_all_fits_it_is_the_largest_batch_there_can_be() -> None:
    longest = max(int(each.lengths.max()) for each in small_data()[2].values())
    assert largest()[0] == largest(accumulation=4)[0] == 8 * longest


def test_it_leaves_no_trace() -> None:
    for sharing in ("hard", "attention", "mmoe"):
        model, weighting = small_model(sharing)
        features = small_data()[2]
        before, drawn = (
            {name: each.clone() for name, each in model.state_dict().items()},
            torch.random.get_rng_state(),
        )
        fit.largest_batch(
            *(model, weighting, features, dict.fromkeys(features, 8)),
            input_format=InputFormat(0, True),
            bf16=False,
            accumulation=1,
            ranks=ALONE,
        )
        assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
        assert torch.equal(torch.random.get_rng_state(), drawn)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_an_input_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "free_memory", lambda device: 2**20)
    with pytest.raises(
        RunError,
        match=r"one input of cola with \d+ tokens needs .* is left for inputs\n    -> lower "
        r"data.max_length",
    ):
        largest()


def test_the_memory_that_is_free_is_what_the_system_says() -> None:
    free = fit.free_memory(torch.device("cpu"))
    total = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert 2**26 < free < total


def test_of_ranks_on_one_machine_each_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = fit.free_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert fit.free_memory(torch.device("cpu")) == pytest.approx(alone / 4, rel=0.2)


@pytest.mark.parametrize("free", [300, 600])
def test_a_run_stays_below_what_is_free_and_uses_it(tmp_path: Path, free: int) -> None:
    run_within(tmp_path, free, "fp32")


def run_within(folder: Path, free: int, precision: str) -> None:
    """Run where `free` MB of memory are free, and look at the most that the run has held."""
    options = [
        *RUN,
        f"runner.precision={precision}",
        "runner.steps=6",
        "runner.batch_size=400",
        f"run_dir={folder / 'run'}",
    ]
    done = mtl(
        "train", *options, "runner.max_tokens=auto", before=LIMITED.format(free=free * 2**20)
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
        before="from mtlcli.training import batch_size_finder as fit; fit.largest_batch = None",
    )
    assert again.returncode == 0, again.stderr
    assert (
        yaml.safe_load((folder / "run" / "config.yaml").read_text())["runner"]["max_tokens"]
        == tokens
    )


def test_another_word_is_refused(tmp_path: Path) -> None:
    done = mtl("train", *RUN, f"run_dir={tmp_path / 'run'}", "runner.max_tokens=most")
    assert done.returncode == 2 and "runner.max_tokens" in done.stderr and "auto" in done.stderr, (
        done.stderr
    )
    assert not list(tmp_path.iterdir())
