"""Training and evaluation in bf16 on a CPU, wherever the CPU can multiply that format at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from mtlcli.models.precision import CPU_BF16, choose_precision
from mtlcli.tasks.base import Encoded
from mtlcli.tasks.heads import PooledHead, SpanHead
from tests.ranks import fork_ranks
from tests.runs.ddp.test_two_ranks import COMMON, losses
from tests.runs.test_max_tokens import run_within
from tests.small_run import cut_off, differences, resume, start
from tests.warm import mtl

EPS = 2.0**-8
"""Rounding of bf16, which has 8 significant bits."""
CPU = torch.device("cpu")
INSTRUCTIONS = any(torch.cpu.get_capabilities().get(name, False) for name in CPU_BF16)
pytestmark = pytest.mark.skipif(not INSTRUCTIONS, reason="this CPU would emulate bf16")


def test_auto_is_bf16_and_stands_in_the_run_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["runner.precision=auto", "runner.steps=3", "model.hidden=32"]
    options += ["data.max_eval_rows=30"]
    assert choose_precision("auto", CPU) == "bf16"
    done = mtl(*without_format(COMMON), *options, f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((run / "config.yaml").read_text())["runner"]["precision"] == "bf16"
    results = json.loads((run / "results.json").read_text())
    assert results["precision"] == "bf16"
    done = mtl("eval", str(run), "--json", str(tmp_path / "again.json"))
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["precision"], again["tasks"]) == ("bf16", results["tasks"])
    output = ["--predictions", str(tmp_path / "predictions"), "data.max_eval_rows=60"]
    done = mtl("eval", str(run), "--task", "stsb", *output)
    assert done.returncode == 0, done.stderr
    # Near 3, bf16 has one number every 2^-6: the rows would share a handful of scores.
    rows = [
        json.loads(line)
        for line in (tmp_path / "predictions" / "stsb.jsonl").read_text().splitlines()
    ]
    assert len({row["score"] for row in rows}) > 0.9 * len(rows)


def test_outputs_of_heads_are_fp32() -> None:
    torch.manual_seed(0)
    states = torch.randn(4, 5, 16)
    encoded = Encoded(states, states[:, 0], torch.ones(4, 5, dtype=torch.bool))
    for head in (
        PooledHead(16, 3, 0.0, layers=0),
        PooledHead(16, 3, 0.0, layers=1),
        SpanHead(16, 0.0),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            low = head(encoded)
        exact = head(encoded)
        assert all(value.dtype == torch.float32 for value in low.values())
        if len(head.layers) == 1:
            assert all(torch.equal(value, exact[key]) for key, value in low.items())


def test_two_ranks_are_one_within_the_rounding_of_bf16(tmp_path: Path) -> None:
    for devices in (1, 2):
        options = [
            "runner.precision=bf16",
            f"runner.devices={devices}",
            f"run_dir={tmp_path / str(devices)}",
        ]
        done = mtl(*without_format(COMMON), *options, "sampling=all", before=fork_ranks)
        assert done.returncode == 0, done.stderr
    # Each rank rounds its own gradient of a weight before the sum, and 20 steps add up.
    for (_, one), (_, two) in zip(losses(tmp_path / "1"), losses(tmp_path / "2"), strict=True):
        assert abs(one - two) < 16 * EPS * max(1.0, one)


def test_resume_is_to_the_bit(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", "runner.precision=bf16", "weighting=uncertainty")
    broken = cut_off(whole, "step_00000008", tmp_path / "broken")
    resume(broken)
    assert differences(whole, broken) == []


def test_max_tokens_leave_room_for_compiled_kernels(tmp_path: Path) -> None:
    run_within(tmp_path, 300, "bf16")


def without_format(arguments: list[str]) -> list[str]:
    """Arguments of a command, without those that name a number format."""
    return [each for each in arguments if not each.startswith("runner.precision=")]
