"""Files of rows, sound and broken; every fault names its line and a remedy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtlcli.data.read import read_file, rows_fingerprint
from mtlcli.disk import sha256
from mtlcli.errors import Problem, UserError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def problem(path: Path) -> Problem:
    """The one problem of a broken file."""
    with pytest.raises(UserError) as caught:
        read_file(path, "train")
    assert len(caught.value.problems) == 1
    found = caught.value.problems[0]
    assert str(path) in found.where and found.fix
    return found


def test_csv_quotes_line_ends_and_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", '\ufefftext,label,score,id\r\n"a, ""b""\nc",1,0.5,007\r\n\r\nd,-2,,008\r\né,,1e3,010\r\n')
    table = read_file(path, "dev")
    assert table.rows.to_pydict() == {
        "text": ['a, "b"\nc', "d", "é"],
        "label": ["1", "-2", None],
        "score": ["0.5", None, "1e3"],
        "id": ["007", "008", "010"],
    }
    assert (table.split, table.origin, table.lines) == ("dev", str(path), [2, 5, 6])
    assert table.where(1) == f"{path}, line 5"


def test_a_column_is_text_whatever_it_looks_like(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, "a.csv", "a,b,c\n1000,1.10,\n300.50,+1,\n"), "train")
    assert [field.type for field in table.rows.schema] == [pa.string()] * 3
    assert table.rows.to_pydict() == {"a": ["1000", "300.50"], "b": ["1.10", "+1"], "c": [None, None]}


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, "a.tsv", 'text\tlabel\nhe said "no\t0\n"yes"\t1\r\n\n\u2028, a\rb\t1'), "train")
    assert table.rows.to_pydict() == {"text": ['he said "no', '"yes"', "\u2028, a\rb"], "label": ["0", "1", "1"]}
    assert table.lines == [2, 3, 5]


def test_jsonl_nested_values_missing_keys_and_blank_lines(tmp_path: Path) -> None:
    rows = [{"id": "a", "answers": {"text": ["x"], "answer_start": [3]}}, {"id": "b", "answers": {"text": [], "answer_start": []}, "n": 1}]
    table = read_file(write(tmp_path, "a.jsonl", json.dumps(rows[0]) + "\n\n  \n" + json.dumps(rows[1]) + "\r\n"), "train")
    assert table.column("answers") == [row["answers"] for row in rows]
    assert table.column("n") == [None, 1]
    assert table.lines == [1, 4]


def test_parquet_keeps_types_and_class_labels(tmp_path: Path) -> None:
    folder = tmp_path / "task=cola"
    folder.mkdir()
    features = {"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}
    rows = pa.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(rows, folder / "train.parquet")
    table = read_file(folder / "train.parquet", "train")
    assert table.rows.to_pydict() == {"text": ["a", "b"], "label": [1, 0]}
    assert table.lines is None and table.where(1) == f"{folder / 'train.parquet'}, row 2"


def test_a_field_of_a_megabyte(tmp_path: Path) -> None:
    table = read_file(write(tmp_path, "a.csv", f"text,label\n{'x' * 1_000_000},1\n"), "train")
    assert len(table.column("text")[0]) == 1_000_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cr.csv", "text,label\ra,1\rb,0\r"),
        ("cr.tsv", "text\tlabel\ra\t1\rb\t0\r"),
        ("cr.jsonl", '{"text": "a", "label": "1"}\r{"text": "b", "label": "0"}\r'),
        ("bom.tsv", "\ufefftext\tlabel\na\t1\nb\t0"),
        ("index.csv", ",text,label\n0,a,1\n1,b,0\n"),  # as pandas writes the numbers of the rows
        ("excel.csv", '\ufeffsep=,\n"\ufefftext",label,,\na,1,,\nb,0\n'),  # Excel leaves out fields at the end of some rows
        ("sheet.csv", "text,label,,\na,1,,\n,,,\nb,0,,\n,,,\n"),  # as spreadsheets leave empty columns and rows
        ("a.json", '[{"text": "a", "label": "1", "more": [1]}, {"text": "b", "label": "0"}]'),
        ("data.json", '{"version": 1, "data": [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]}'),
        ("lines.json", '{"text": "a", "label": "1"}\n{"text": "b", "label": "0"}\n'),
    ],
)
def test_forms_of_one_table(tmp_path: Path, name: str, content: str) -> None:
    table = read_file(write(tmp_path, name, content), "train", ["text", "label"])
    assert table.rows.to_pydict() == {"text": ["a", "b"], "label": ["1", "0"]}


@pytest.mark.parametrize("name", ["squad.json", "squad.jsonl"])
def test_squads_published_form(tmp_path: Path, name: str) -> None:
    """As https://rajpurkar.github.io/SQuAD-explorer gives it; a row for each question."""
    good = {"id": "1", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]}
    none = {"id": "2", "question": "what?", "answers": [], "is_impossible": True}
    articles = [{"title": "t", "paragraphs": [{"context": "the cat", "qas": [good, none, {"id": "3", "question": "?"}]}]}]
    table = read_file(write(tmp_path, name, json.dumps({"version": "v2.0", "data": articles})), "train")
    assert table.rows.select(["id", "question", "context", "answers"]).to_pydict() == {
        "id": ["1", "2", "3"],
        "question": ["who?", "what?", "?"],
        "context": ["the cat"] * 3,
        "answers": [{"text": ["cat"], "answer_start": [4]}, {"text": [], "answer_start": []}, None],
    }
    del articles[0]["paragraphs"][0]["qas"][1]["id"]  # type: ignore[index]
    found = problem(write(tmp_path, name, json.dumps({"data": articles})))
    assert found.where.endswith("data[0].paragraphs[0].qas[1]") and "'id'" in found.what


def test_only_the_needed_columns_of_objects_are_kept(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": number, f"key {number}": number, "\ud800": 1} for number in range(300)] + [{"n": "odd"}]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    table = read_file(path, "train", ["text", "label"])
    assert table.rows.column_names == ["text"] and len(table) == 301
    assert len(table.all_names) == 303 and "?" in table.all_names


@pytest.mark.parametrize(
    ("first", "what", "fix"),
    [
        (
            "good film,1",
            "no header line: its first line is 'good film, 1'",
            "write text,label as its first line, in the order of",
        ),
        ("nice,bad", "no header line: its first line is 'nice, bad'", "write text,label as its first line"),
        ("text,label,more", "the row has 2 fields, the header 3", "give every row all fields"),
    ],
)
def test_a_first_line_that_is_no_header(tmp_path: Path, first: str, what: str, fix: str) -> None:
    path = write(tmp_path, "a.csv", f"{first}\ngood film,bad\nold film,good\n")
    with pytest.raises(UserError) as caught:
        read_file(path, "train", ["text", "label"])
    assert what in caught.value.problems[0].what and fix in caught.value.problems[0].fix
    other = write(tmp_path, "b.csv", "review,stars\ngood film,bad\n")
    assert read_file(other, "train", ["text", "label"]).all_names == ["review", "stars"]


@pytest.mark.parametrize(
    ("name", "content", "what", "line"),
    [
        ("latin1.csv", "text,label\nab,1\ncafé,0\n".encode("latin-1"), "0xe9 is not UTF-8; the file may be Latin-1", 3),
        ("latin1.jsonl", '{"a": 1}\n{"a": "é"}\n'.encode("latin-1"), "0xe9 is not UTF-8", 2),
        ("utf16.tsv", "text\tlabel\na\t1\n".encode("utf-16"), "UTF-16", 1),
        ("utf16.csv", "text,label\na,1\n".encode("utf-16-le"), "UTF-16", 1),
        ("many.csv", "text,label\na,1\nb, c,0\nd,1\ne,f,1\n", "has 3 fields, the header 2 (and 1 more: line 5)", 3),
        ("few.csv", 'text,label\n"a\nb",1\nc\n', "has 1 field, the header 2", 4),
        ("many.tsv", "text\tlabel\na\tb\t1\n", "has 3 fields, the header 2", 2),
        ("quote.csv", 'text,label\na,1\n"b,0\nc,1\n', "not valid csv: unexpected end of data", 3),
        ("quote2.csv", 'text,label\n"a"b,1\n', "not valid csv", 2),
        ("twice.csv", "text,label,text\na,1,b\n", "names a column twice: text", 1),
        ("broken.jsonl", '{"a": 1}\n{"a": \n', "broken JSON at character 7", 2),
        ("list.jsonl", '{"a": 1}\n\n[1]\n', "[1] is not an object", 3),
        ("types.jsonl", '{"a": 1}\n{"a": 2}\n\n{"a": "x"}\n{"a": 3}\n', "column 'a': the value \"x\"", 4),
        ("nested.jsonl", '{"a": {"b": [1]}}\n{"a": {"b": ["x"]}}\n', "column 'a': the value", 2),
        ("big.jsonl", '{"a": 1}\n{"a": 99999999999999999999999}\n', "column 'a': the value 9999", 2),
        ("surrogate.jsonl", '{"a": "x"}\n{"a": "\\ud800"}\n', "column 'a' holds half a surrogate pair, \\ud800, which is no character", 2),
        (
            "half.jsonl",
            '{"a": ["\\udc00"]}\n{"a": []}\n{"a": ["\\udc01x"]}\n',
            "pair, \\udc00, which is no character (and 1 more",
            1,
        ),
        ("nameless.csv", "a,,\nx,,\ny,,z\n", "column 3 has no name, and the value 'z' in line 3", 1),
    ],
)
def test_a_fault_names_its_line(tmp_path: Path, name: str, content: str | bytes, what: str, line: int) -> None:
    found = problem(write(tmp_path, name, content))
    assert what in found.what
    assert found.where.endswith(f"{name}, line {line}")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("empty.csv", b"", "the file is empty"),
        ("blank.tsv", b"\n\n", "the file is empty"),
        ("bom.jsonl", b"\xef\xbb\xbf", "the file is empty"),
        ("header.csv", b"text,label\n", "a header and no rows"),
        ("header.tsv", b"text\tlabel\n\n", "a header and no rows"),
        ("keys.jsonl", b"{}\n{}\n", "have no keys"),
        ("empty.parquet", b"", "damaged or not parquet"),
        ("text.parquet", b"text,label\na,1\n", "damaged or not parquet"),
        ("data.xlsx", b"PK", "unknown kind of file '.xlsx'"),
        ("columns.json", b'{"a": {"0": 1}}', "one JSON value, not a list of rows"),
        ("numbers.json", b"[1]", "1 is not an object"),
        ("none.json", b"[]", "the file has no rows"),
        ("separators.csv", b",,\n,,\n", "the file is empty"),
        ("a.parquet.gz", b"", "unknown kind of file '.parquet.gz'"),
        ("data.json", b"{}", "one JSON value, not a list of rows"),
    ],
)
def test_a_useless_file_is_named(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    assert what in problem(write(tmp_path, name, content)).what


def test_only_the_first_broken_lines_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_file(write(tmp_path, "a.jsonl", '{"a": 1}\n' + "{\n" * 10), "train")
    (found,) = caught.value.problems
    assert found.what.endswith("(and 9 more: lines 3, 4, 5, 6, ...)") and found.where.endswith("line 2")


def test_damaged_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(5000)]}), path := tmp_path / "a.parquet", compression="zstd")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "damaged or not parquet" in problem(path).what
    path.write_bytes(data[:200] + bytes(2000) + data[2200:])
    assert "damaged or not parquet" in problem(path).what


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xe9")])
    pq.write_table(pa.table({"text": bad}), path := tmp_path / "a.parquet")
    found = problem(path)
    assert found.what == "column 'text' holds bytes that are not UTF-8: 0xe9 at byte 1"
    assert found.where == f"{path}, row 1"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "does not exist" in problem(tmp_path / "none.csv").what
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in problem(tmp_path / "folder.csv").what


def test_fingerprints(tmp_path: Path) -> None:
    content = b"text,label\na,1\n"
    assert sha256(write(tmp_path, "a.csv", content)) == hashlib.sha256(content).hexdigest()
    rows = pa.table({"text": ["a", None, "c", "d"] * 500, "label": [1, 0, None, 1] * 500})
    same = pa.concat_tables([rows.slice(0, 3), rows.slice(3)]).replace_schema_metadata({"x": "y"})
    longer = pa.concat_tables([rows, rows]).slice(0, 2000)
    assert len({rows_fingerprint(table) for table in (rows, same, longer)}) == 1
    others = [
        rows.slice(1),
        rows.rename_columns(["text", "labels"]),
        rows.set_column(1, "label", rows["label"].cast(pa.int32())),
        rows.select(["label", "text"]),
        rows.take(np.arange(2000)[::-1]),
    ]
    assert len({rows_fingerprint(table) for table in [rows, *others]}) == 6
