"""A threshold that each evaluation chooses on rows kept out of training."""

from __future__ import annotations

import json
from pathlib import Path

from tests.small_run import cut_off, differences, resume, start
from tests.warm import mtl

OPTIONS = (
    "task=[squad_v2,rte]",
    "tasks.squad_v2.max_length=48",
    "tasks.squad_v2.stride=16",
    "tasks.squad_v2.max_question_length=16",
    "tasks.squad_v2.no_answer_threshold=auto",
    "tasks.squad_v2.splits.calibration={fraction: 0.2, group: context}",
    "sampling=all",
    "data.max_train_rows=40",
)


def test_the_threshold_is_chosen_again_to_the_last_digit(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", *OPTIONS, "runner.steps=6", "runner.eval_every=3")
    again = resume(cut_off(whole, "step_00000004", tmp_path / "again"))
    assert not differences(whole, again, steps=6)
    results = json.loads((whole / "results.json").read_text())
    chosen = results["tasks"]["squad_v2"]["calibrated"]["no_answer_threshold"]
    assert chosen != 0 and "calibrated" not in results["tasks"]["rte"]
    read = json.loads((whole / "environment.json").read_text())["data"]["tasks"]["squad_v2"]
    train, kept = (read["splits"][split]["total"] for split in ("train", "calibration"))
    assert 0.15 < kept / (train + kept) < 0.25
    done = mtl("eval", str(whole), "--json", "e.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())["tasks"]["squad_v2"]
    assert found["metrics"] == results["tasks"]["squad_v2"]["metrics"]
    assert found["calibrated"] == {"no_answer_threshold": chosen}
    # The number that was chosen, typed, gives the same scores, and the rows are not read then.
    more = (f"tasks.squad_v2.no_answer_threshold={chosen}", "--json", "typed.json")
    done = mtl("eval", str(whole), *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    typed = json.loads((tmp_path / "typed.json").read_text())["tasks"]["squad_v2"]
    assert typed["metrics"] == found["metrics"]
