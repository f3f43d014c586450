"""One run of the task types beside classification, regression, spans and tagging: resumed,
evaluated again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtlcli.report.finished import read_run
from tests.ranks import fork_ranks
from tests.small_run import SMALL, cut_off, differences, resume, start
from tests.warm import mtl

TYPES = (
    "task=[go_emotions,swag,race,ms_marco,semeval2010_task8,tacred,wikitext]",
    "sampling=all",
    "data.max_length=48",
    "runner.steps=6",
    "runner.eval_every=6",
)
OPTION = {"option", "text", "probabilities"}
PREDICTED = {
    "go_emotions": {"labels", "probabilities"},
    "swag": OPTION,
    "race": OPTION,
    "ms_marco": {"scores", "order"},
    "semeval2010_task8": {"label", "probabilities"},
    "tacred": {"label", "probabilities"},
    "wikitext": {"places", "right", "log_probability"},
}


def test_a_run_goes_on_and_is_evaluated_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", *TYPES)
    again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    assert not differences(whole, again, steps=6)
    results = json.loads((whole / "results.json").read_text())
    # With the limit typed again, predictions are those of the rows that training has scored.
    more = ("--json", "e.json", "--predictions", "p", "data.max_eval_rows=8")
    done = mtl("eval", str(whole), *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["tasks"].keys() == PREDICTED.keys()
    for name, entry in results["tasks"].items():
        assert found["tasks"][name]["metrics"] == entry["metrics"]
    for name, keys in PREDICTED.items():
        rows = [json.loads(line) for line in (tmp_path / "p" / f"{name}.jsonl").open()]
        assert len(rows) == 8
        assert all(row.keys() - {"row", "id", "gold", "words"} == keys for row in rows)
    # The run has left the same, from which the scores follow.
    own = read_run(whole)
    for name in PREDICTED:
        left = (whole / "predictions" / f"{name}.jsonl").read_text()
        assert left == (tmp_path / "p" / f"{name}.jsonl").read_text()
        assert len(own.predictions(name).rows) == 8


def test_two_ranks_with_packed_batches_are_one_with_padded_ones(tmp_path: Path) -> None:
    losses = []
    for devices, packing in ((1, "off"), (2, "on")):
        run = tmp_path / str(devices)
        more = ("model.dropout=0", "logger.every=1", "runner.steps=3", f"runner.packing={packing}")
        place = (f"runner.devices={devices}", f"run_dir={run}")
        done = mtl("train", *SMALL, *TYPES, *more, *place, before=fork_ranks)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        losses.append([entry["loss"] for row in rows for entry in row["tasks"].values()])
    assert len(losses[0]) == 3 * len(PREDICTED)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
