"""`runner.packing` through the command: the same losses and scores, and a refusal with its
reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.warm import mtl

RUN = [
    *("task=[cola,stsb,mnli,squad]", "data=sample", "model=tiny", "sampling=all", "seed=3"),
    *("data.max_train_rows=48", "data.max_eval_rows=8", "data.max_length=48"),
    *("runner.batch_size=4", "runner.steps=20", "logger.every=1", "runner.device=cpu"),
]


def train(folder: Path, *options: str) -> list[dict[str, float]]:
    """Run the command; return the losses of all tasks in each step."""
    done = mtl("train", *RUN, f"run_dir={folder}", *options)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: task["loss"] for name, task in row["tasks"].items()} for row in rows]


def test_a_packed_run_has_the_losses_and_scores_of_a_padded_one(tmp_path: Path) -> None:
    padded, packed = tmp_path / "padded", tmp_path / "packed"
    losses = {
        folder: train(folder, *options)
        for folder, options in ((padded, ()), (packed, ("runner.packing=on",)))
    }
    assert len(losses[padded]) == 20
    for mine, other in zip(losses[packed], losses[padded], strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    settled = [
        yaml.safe_load((each / "config.yaml").read_text())["runner"]["packing"]
        for each in (padded, packed)
    ]
    assert settled == ["off", "on"]
    scores = [json.loads((each / "results.json").read_text()) for each in (padded, packed)]
    assert scores[1]["average"] == pytest.approx(scores[0]["average"], abs=1e-3)
    done = mtl("eval", str(packed), "--json", str(tmp_path / "scores.json"))
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again["average"] == scores[1]["average"]


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    done = mtl("train", *RUN, f"run_dir={tmp_path / 'run'}", "runner.packing=on", "sharing=pal")
    assert done.returncode == 2
    assert "runner.packing=on: the model cannot take packed batches: sharing=pal" in done.stderr
