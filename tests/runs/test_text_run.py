"""Runs with tasks in the form of text: resumed, evaluated again in several ways, packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.small_run import cut_off, differences, resume, start
from tests.warm import mtl

TEXT = (
    "form=text",
    "model=tiny_decoder",
    "task=[cola,stsb,rte,squad]",
    "tasks.squad.max_length=48",
    "text.max_answer=4",
    "data.max_length=48",
    "sampling=all",
)


def test_a_run_goes_on_and_is_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(
        tmp_path / "whole", *TEXT, "runner.steps=8", "runner.eval_every=8", "weighting=pcgrad"
    )
    again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    assert not differences(whole, again, steps=8)
    results = json.loads((whole / "results.json").read_text())
    for number, more in enumerate(
        (
            ("--json", "e.json"),
            ("text.predict=calibrated", "--task", "cola", "--predictions", "calibrated"),
            ("text.predict=generated", "--task", "cola", "--predictions", "generated"),
        )
    ):
        done = mtl("eval", str(whole), *more, cwd=tmp_path)
        assert done.returncode == 0, (number, done.stderr)
    found = json.loads((tmp_path / "e.json").read_text())
    for name, entry in results["tasks"].items():
        assert found["tasks"][name]["metrics"] == entry["metrics"]
    scored, generated = (
        [json.loads(line) for line in (tmp_path / way / "cola.jsonl").open()]
        for way in ("calibrated", "generated")
    )
    assert all(set(row["probabilities"]) == {"acceptable", "unacceptable"} for row in scored)
    assert {row["label"] for row in generated} <= {"acceptable", "unacceptable"}
    assert len(scored) == len(generated) == 400


def test_packed_batches_give_the_losses_of_padded_ones(tmp_path: Path) -> None:
    losses = []
    for packing in ("off", "on"):
        run = start(
            tmp_path / packing,
            *TEXT,
            *("runner.steps=4", "runner.accumulation=1", "model.dropout=0", "logger.every=1"),
            f"runner.packing={packing}",
        )
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        losses.append([entry["loss"] for row in rows for entry in row["tasks"].values()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
