"""Columns inside other columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mtlcli.config import Data, task_types
from mtlcli.config.task import Source
from mtlcli.data.source import open_source
from mtlcli.data.table import Table
from mtlcli.tasks.seq2seq import Seq2SeqColumns

ROWS = [{"de": "ein Hund", "en": "a dog"}, {"de": None, "en": "a cat"}]


def read(file: Path) -> Table:
    config = task_types.configs["seq2seq"](
        source=Source(files={"train": str(file)}),
        columns=Seq2SeqColumns(text="translation.de", target="translation.en"),
    )
    return open_source(Data(), {"toy": config}).read("toy", "train")


def test_fields_of_objects_and_the_flat_form(tmp_path: Path) -> None:
    nested = [{"id": number, "translation": row, "more": 1} for number, row in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, nested)))
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "d.csv").write_text("de,en\nein Hund,a dog\n,a cat\n")
    for name in ("a.parquet", "b.jsonl", "c.jsonl", "d.csv"):
        table = read(tmp_path / name)
        assert set(table.rows.column_names) - {"id"} == {"translation.de", "translation.en"}, name
        assert table.column("translation.de") == ["ein Hund", None]
        assert table.column("translation.en") == ["a dog", "a cat"]


def test_what_is_not_there_is_not_made_up(tmp_path: Path) -> None:
    rows = [{"translation": {"fr": "un chien", "en": "a dog"}, "de": "ein Hund"}]
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    table = read(tmp_path / "a.jsonl")
    assert "translation.de" not in table.all_names
    assert "translation.fr" in table.all_names
    assert table.column("translation.en") == ["a dog"]
