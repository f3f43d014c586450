"""The csv tables: new columns, and the rows that a resumed run keeps."""

from __future__ import annotations

from pathlib import Path

from mtlcli.trackers.csv_files import Table


def test_a_new_column_is_empty_before(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    table = Table(file, up_to=0)
    table.add(3, {"loss/rte": 0.5})
    table.add(6, {"loss/cola": 1.5})
    assert file.read_text() == "step,loss/rte,loss/cola\n3,0.5,\n6,,1.5\n"


def test_later_and_torn_rows_go(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text("step,lr,loss/rte\n3,0.1,0.5\n6,0.1,0.4\n9,0.1,0.3\n1")
    table = Table(file, up_to=6)
    assert file.read_text() == "step,lr,loss/rte\n3,0.1,0.5\n6,0.1,0.4\n"
    table.add(8, {"lr": 0.2})
    assert file.read_text().endswith("6,0.1,0.4\n8,0.2,\n")
