"""A run that removes train rows: what it says and records, and that it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtlcli.errors import UserError
from mtlcli.evaluation.saved_run import evaluate_path
from tests.small_run import cut_off, differences, resume, start

TASK = """\
type: classification
source:
  files: {train: TRAIN, validation: VALIDATION, test: TEST}
splits: {test: test}
columns: {text: text}
labels: [a, b]
"""
TRAIN = [f"a text of number {row},{'ab'[row % 2]}" for row in range(24)]
OTHERS = {
    "train": [*TRAIN, "A  text of NUMBER 3,b", "A text of number 4,a"],
    "validation": ["a text of number 5,b", "another text,a"],
    "test": ["a text of  number 7,b", "A TEXT OF NUMBER 3,a"],
}


def test_train_loses_rows_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TASK
    for split, rows in OTHERS.items():
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows, ""]))
        text = text.replace(split.upper(), str(tmp_path / f"{split}.csv"))
    (tmp_path / "mine.yaml").write_text(text)
    options = (
        f"task={tmp_path / 'mine.yaml'}",
        *("data.source=auto", "data.max_train_rows=null", "data.max_eval_rows=null"),
        *("data.deduplicate=true", "data.decontaminate=equal", "runner.steps=6"),
    )
    whole = start(tmp_path / "whole", *options)
    said = capsys.readouterr().out
    assert "because an earlier row has the same inputs: mine train 1 of 26" in said
    assert "because validation or test has them (equal): mine train 4 of 26" in said
    read = json.loads((whole / "environment.json").read_text())["data"]["tasks"]["mine"]["splits"]
    assert [read["train"][key] for key in ("rows", "total", "duplicates", "contaminated")] == [
        *(21, 26, 1, 4)
    ]
    results = json.loads((whole / "results.json").read_text())
    counts = {"used": 21, "of": 26, "duplicates": 1, "contaminated": 4}
    assert results["train_rows"]["mine"] == counts
    assert results["tasks"]["mine"]["rows"]["validation"] == {"used": 2, "of": 2}
    part = cut_off(whole, "step_00000004", tmp_path / "again")
    assert not differences(whole, resume(part), steps=6)
    # An evaluation scores whole splits.
    lines: list[str] = []
    found = evaluate_path(whole, split="train", say=lines.append)
    assert found["tasks"]["mine"]["rows"] == {"train": {"used": 26, "of": 26}}
    found = evaluate_path(whole, say=lines.append)
    assert found["tasks"]["mine"]["metrics"] == results["tasks"]["mine"]["metrics"]
    assert not any("removed" in line for line in lines)
    # Another option changes the result, and so does a test split that was exchanged.
    with pytest.raises(UserError, match="data.deduplicate: True -> False changes the result"):
        resume(part, "data.deduplicate=false")
    (tmp_path / "test.csv").write_text("text,label\na text of number 8,b\n")
    with pytest.raises(UserError, match="the rows that are removed from train are not those"):
        resume(part)
