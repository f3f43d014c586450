"""A run whose rows are on disk: it is the run with rows in memory, and reads each file once."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mtlcli.data import clean, on_disk, shards, source, table
from mtlcli.data.read import read_file
from mtlcli.data.table import Table
from tests.small_run import cut_off, differences, resume, start

TASK = """\
type: classification
source:
  files: {train: SHARDS, test: TEST}
splits: {hold_out: {fraction: 0.2}, calibration: {fraction: 0.2}, test: test}
columns: {text: text}
labels: [a, b]
unlabelled: skip
"""


def write(path: Path, rows: range) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for row in rows:
            label = None if row % 13 == 0 else "ab"[row % 2]
            file.write(json.dumps({"text": f"a text of number {row % 40}", "label": label}) + "\n")


def test_the_run_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (table, on_disk, clean):
        monkeypatch.setattr(module, "PART", 7)
    reads: Counter[str] = Counter()

    def reading(path: Path, *arguments: Any) -> Table:
        reads[path.name] += 1
        return read_file(path, *arguments)

    for module in (shards, source):
        monkeypatch.setattr(module, "read_file", reading)
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        write(folder / f"part-{number}.jsonl.gz", range(20 * number, 20 * number + 20))
    write(tmp_path / "test.jsonl.gz", range(38, 42))
    text = TASK.replace("SHARDS", str(folder)).replace("TEST", str(tmp_path / "test.jsonl.gz"))
    (tmp_path / "mine.yaml").write_text(text)
    runs = {}
    for rows in ("memory", "disk"):
        reads.clear()
        runs[rows] = start(
            tmp_path / rows,
            f"task={tmp_path / 'mine.yaml'}",
            *("data.source=auto", "data.max_train_rows=20", "data.max_eval_rows=null"),
            *("data.deduplicate=true", "data.decontaminate=equal", "runner.steps=6"),
            *(f"data.rows={rows}", f"data.cache_dir={tmp_path / 'cache'}"),
        )
        # Train, validation and the rows to compare with come from the same files.
        assert set(reads.values()) == {1} and len(reads) == 4
    assert (tmp_path / "cache" / "rows").is_dir()
    assert not differences(runs["memory"], runs["disk"], steps=6)
    reads.clear()
    part = cut_off(runs["disk"], "step_00000004", tmp_path / "again")
    assert not differences(runs["memory"], resume(part), steps=6)
    assert not reads
    part = cut_off(runs["disk"], "step_00000004", tmp_path / "moved")
    assert not differences(runs["memory"], resume(part, "data.rows=memory"), steps=6)
