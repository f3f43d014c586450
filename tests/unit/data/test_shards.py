"""Several files as the rows of one split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtlcli.config.run import Data
from mtlcli.config.task import Source, TextColumns
from mtlcli.data.source import open_source
from mtlcli.errors import UserError
from mtlcli.tasks.classification import ClassificationTask


def task(files: dict[str, str]) -> ClassificationTask:
    source = Source(files=files)
    return ClassificationTask(source=source, columns=TextColumns(text="text", label="label"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def said(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value.problems[0])


def test_a_folder_and_a_pattern_are_read_in_order(tmp_path: Path) -> None:
    for name, rows in (("b", "x,1\n"), ("a", "y,0\nz,1\n"), ("c", "w,0\n")):
        write(tmp_path / "shards" / f"{name}.csv", "text,label\n" + rows)
    for named, texts in (("shards", "yzxw"), ("shards/[ab].csv", "yzx")):
        files = {"train": str(tmp_path / named)}
        source = open_source(Data(), {"t": task(files)})
        table = source.read("t", "train")
        assert table.column("text") == list(texts)
        assert table.where(2) == f"{tmp_path}/shards/b.csv, line 2"
        assert table.others([0, 1, 2]) == (
            f" (and 2 more: line 3 of {tmp_path}/shards/a.csv, line 2 of {tmp_path}/shards/b.csv)"
        )
        assert table.select(np.array([2])).where(0) == f"{tmp_path}/shards/b.csv, line 2"
    before = source.record()["t"]["splits"]["train"]["fingerprint"]
    write(tmp_path / "shards" / "b.csv", "text,label\nx,0\n")
    source.read("t", "train")
    assert source.record()["t"]["splits"]["train"]["fingerprint"] != before


def test_rows_of_parquet_shards_are_numbered_by_file(tmp_path: Path) -> None:
    for name in "ab":
        pq.write_table(
            pa.table({"text": ["x", "y"], "label": [0, 1]}), tmp_path / f"{name}.parquet"
        )
    source = open_source(Data(), {"t": task({"train": f"{tmp_path}/*.parquet"})})
    table = source.read("t", "train")
    assert (table.where(2), table.number(2)) == (f"{tmp_path}/b.parquet, row 1", 3)


def test_shards_of_different_columns_or_formats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "s" / "a.csv", "text,label,more\nx,1,1\n")
    write(tmp_path / "s" / "b.csv", "text,lable,more\nx,1,1\n")
    source = open_source(Data(), {"t": task({"train": str(tmp_path / "s")})})
    assert f"its columns are not those of {tmp_path}/s/a.csv: it lacks label" in said(
        source.read, "t", "train"
    )
    write(tmp_path / "s" / "b.jsonl", '{"text": "x", "label": 1}\n')
    assert "the files are of several formats: csv, jsonl" in said(source.read, "t", "train")
