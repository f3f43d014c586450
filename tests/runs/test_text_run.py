"""Runs with tasks in the form of text: resumed, evaluated again in several ways, packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtlcli.evaluation.saved_run import evaluate_path
from tests.small_run import cut_off, differences, resume, start

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
    assert evaluate_path(whole)["tasks"] == results["tasks"]
    rows = {}
    for way in ("calibrated", "generated"):
        evaluate_path(
            whole,
            tasks=["cola"],
            overrides=[f"text.predict={way}"],
            predictions=tmp_path / way,
        )
        rows[way] = [json.loads(line) for line in (tmp_path / way / "cola.jsonl").open()]
        assert len(rows[way]) == 400
    labels = {"acceptable", "unacceptable"}
    assert all(set(row["probabilities"]) == labels for row in rows["calibrated"])
    assert {row["label"] for row in rows["generated"]} <= labels


def test_an_encoder_decoder_learns_and_is_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(
        tmp_path / "whole", *TEXT, "model=tiny_t5", "runner.steps=6", "runner.eval_every=6"
    )
    again = resume(cut_off(whole, "step_00000002", tmp_path / "again"))
    assert not differences(whole, again, steps=6)
    results = json.loads((whole / "results.json").read_text())
    assert evaluate_path(whole)["tasks"] == results["tasks"]


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
