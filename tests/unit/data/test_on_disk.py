"""Rows that are on disk instead of in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtlcli.config.run import Data
from mtlcli.config.task import Source, TextColumns
from mtlcli.data import clean, on_disk, shards, table
from mtlcli.data.read import read_file
from mtlcli.data.source import open_source
from mtlcli.data.table import Table
from mtlcli.errors import UserError
from mtlcli.tasks.classification import ClassificationTask

COLUMNS = TextColumns(text="text", label="label")


@pytest.fixture(autouse=True)
def parts_of_three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (table, on_disk, clean):
        monkeypatch.setattr(module, "PART", 3)


def read(folder: Path, rows: str, **data: Any) -> Table:
    task = ClassificationTask(source=Source(files={"train": str(folder)}), columns=COLUMNS)
    settings = Data(rows=rows, cache_dir=str(folder.parent / "cache"), **data)  # type: ignore[arg-type]
    return open_source(settings, {"t": task}).read("t", "train", inputs=["text"])


def write(folder: Path, sizes: tuple[int, ...] = (4, 5, 2)) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes):
        rows = [f"{number}{row % 4} ä,{'ab'[row % 2]}\n" for row in range(size)]
        (folder / f"{number}.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    return folder


def same(one: Table, other: Table) -> bool:
    places = range(len(one))
    return one.rows.equals(other.rows) and [one.where(row) for row in places] == [
        other.where(row) for row in places
    ]


@pytest.mark.parametrize("settings", [{}, {"max_train_rows": 7}, {"deduplicate": True}])
def test_rows_on_disk_are_those_in_memory(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = write(tmp_path / "shards")
    expected = read(folder, "memory", **settings)
    for _ in range(2):
        found = read(folder, "disk", **settings)
        assert found.folder is not None and expected.folder is None
        assert same(found, expected) and found.split == "train"
        assert found.others([0, 4, 6]) == expected.others([0, 4, 6])
    parts = list(found.parts())
    assert max(map(len, parts)) == 3
    assert [part.where(row) for part in parts for row in range(len(part))] == [
        expected.where(row) for row in range(len(expected))
    ]


def test_files_are_read_one_by_one_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    reads, writes = read_file, on_disk._write

    def reading(path: Path, *arguments: Any) -> Table:
        events.append(f"read {path.name}")
        return reads(path, *arguments)

    def writing(path: Path, rows: pa.Table) -> None:
        events.append(f"write {len(rows)}")
        writes(path, rows)

    monkeypatch.setattr(shards, "read_file", reading)
    monkeypatch.setattr(on_disk, "_write", writing)
    folder = write(tmp_path / "shards")
    once = ["read 0.csv", "write 4", "read 1.csv", "write 5", "read 2.csv", "write 2"]
    for _ in range(2):
        read(folder, "disk")
        assert events == once
    # Damaged rows are written anew, and so are those of a file that changed.
    (file,) = (tmp_path / "cache" / "rows").glob("*/000001.arrow")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert same(read(folder, "disk"), read(folder, "memory"))
    assert events[:6] == once and "write 5" in events[6:]
    (folder / "1.csv").write_text("text,label\nother,a\n")
    assert read(folder, "disk").column("text")[4] == "other"


def test_types_of_files_are_made_one(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, labels in enumerate(([None, None], [0, 1], [2.0, None])):
        rows = pa.table({"text": ["x", "y"], "label": labels})
        pq.write_table(rows, folder / f"{number}.parquet")
    assert same(read(folder, "disk"), read(folder, "memory"))
    pq.write_table(pa.table({"text": ["x"], "label": ["a"]}), folder / "3.parquet")
    with pytest.raises(UserError) as caught:
        read(folder, "disk")
    with pytest.raises(UserError) as expected:
        read(folder, "memory")
    assert caught.value.problems == expected.value.problems
    assert not list((tmp_path / "cache" / "rows").glob("*.partial"))


def test_large_splits_are_on_disk_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "shards")
    assert read(folder, "auto").folder is None
    monkeypatch.setattr("mtlcli.data.source.ON_DISK", 100)
    assert read(folder, "auto").folder is not None


def test_few_rows_of_a_table_are_in_memory(tmp_path: Path) -> None:
    found = read(write(tmp_path / "shards"), "disk")
    assert found.select(np.array([1, 5])).folder is None
    assert found.select(np.arange(4)).folder is not None
