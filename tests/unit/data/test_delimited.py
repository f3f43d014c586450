"""Separators of csv files, and files without a header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtlcli.data.read import read_file
from mtlcli.errors import UserError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def columns(path: Path, **how: Any) -> dict[str, list[Any]]:
    return read_file(path, "train", **how).rows.to_pydict()


def said(call: Any, *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value.problems[0])


@pytest.mark.parametrize(
    "text",
    [
        'text;label\n"a; b";3,5\nc, d;1,0\n',
        'text\tlabel\n"a; b"\t3,5\nc, d\t1,0\n',
        'text|label\n"a; b"|3,5\nc, d|1,0\n',
        '"text";"label"\n"a; b";"3,5"\n"c, d";"1,0"\n',
        'sep=;\ntext;label\n"a; b";3,5\nc, d;1,0\n',
        'sep=|\r\ntext|label\r\n"a; b"|3,5\r\nc, d|1,0\r\n',
    ],
)
def test_the_header_of_a_csv_file_shows_its_separator(tmp_path: Path, text: str) -> None:
    found = columns(write(tmp_path / "rows.csv", text))
    assert found == {"text": ["a; b", "c, d"], "label": ["3,5", "1,0"]}


def test_a_comma_outside_of_quotes_separates(tmp_path: Path) -> None:
    found = columns(write(tmp_path / "rows.csv", "a;b,c;d|e\n1;2,3\n"))
    assert found == {"a;b": ["1;2"], "c;d|e": ["3"]}


@pytest.mark.parametrize(
    ("name", "text"), [("r.csv", 'pos,"a, b"\nneg,c\n'), ("r.csv", "pos;a, b\nneg;c\n")]
)
def test_a_file_without_a_header_gets_names(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    table = read_file(path, "train", None, ["label", "text"])
    assert table.rows.to_pydict() == {"label": ["pos", "neg"], "text": ["a, b", "c"]}
    assert table.where(0) == f"{path}, line 1"
    assert "the row has 2 fields, source.header of the task 3 (and 1 more: line 2)" in said(
        read_file, path, "train", None, ["label", "text", "more"]
    )


def test_a_line_of_plain_text_is_a_row(tmp_path: Path) -> None:
    table = read_file(write(tmp_path / "rows.txt", "one, two\n\n \nthree\n"), "train")
    assert table.rows.to_pydict() == {"text": ["one, two", "three"]}
    assert table.where(1).endswith("rows.txt, line 4")
