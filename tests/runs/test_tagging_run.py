"""A run of tagging beside other task types: resumed, evaluated again, packed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.small_run import cut_off, differences, resume, start
from tests.warm import mtl

TAGGING = (
    "task=[ud_pos,conll2003,squad,rte]",
    "tasks.squad.max_length=48",
    "tasks.squad.stride=16",
    "tasks.squad.max_question_length=16",
    # Some sentences of the sample world need two windows.
    "tasks.conll2003.max_length=12",
    "tasks.conll2003.crf=true",
    "tasks.conll2003.constrained=true",
    "sampling=all",
)


def test_a_run_goes_on_and_is_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", *TAGGING, "runner.steps=6", "runner.eval_every=6")
    again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    assert not differences(whole, again, steps=6)
    results = json.loads((whole / "results.json").read_text())
    predicted = ("--split", "test", "--predictions", "p")
    for more in (predicted, ("--json", "e.json")):
        done = mtl("eval", str(whole), *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())
    for name, entry in results["tasks"].items():
        assert found["tasks"][name]["metrics"] == entry["metrics"]
    rows = [json.loads(line) for line in (tmp_path / "p" / "conll2003.jsonl").open()]
    assert len(rows) == 200
    assert all(len(row["tags"]) == len(row["gold"]) for row in rows)
    assert all(
        {"type", "text", "first", "last"} == set(each) for row in rows for each in row["entities"]
    )


def test_packed_batches_give_the_losses_of_padded_ones(tmp_path: Path) -> None:
    losses = []
    for packing in ("off", "on"):
        run = start(
            tmp_path / packing,
            *TAGGING,
            *("runner.steps=4", "runner.accumulation=1", "model.dropout=0", "logger.every=1"),
            f"runner.packing={packing}",
        )
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        losses.append([entry["loss"] for row in rows for entry in row["tasks"].values()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
