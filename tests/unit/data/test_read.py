"""Files of rows, sound and broken; every fault names its line and a remedy."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
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
    path = write(
        tmp_path,
        "a.csv",
        '\ufefftext,label,score,id\r\n"a, ""b""\nc",1,0.5,007\r\n\r\nd,-2,,008\r\né,,1e3,010\r\n',
    )
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
    assert table.rows.to_pydict() == {
        "a": ["1000", "300.50"],
        "b": ["1.10", "+1"],
        "c": [None, None],
    }


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    table = read_file(
        write(tmp_path, "a.tsv", 'text\tlabel\nhe said "no\t0\n"yes"\t1\r\n\n\u2028, a\rb\t1'),
        "train",
    )
    assert table.rows.to_pydict() == {
        "text": ['he said "no', '"yes"', "\u2028, a\rb"],
        "label": ["0", "1", "1"],
    }
    assert table.lines == [2, 3, 5]


def test_jsonl_nested_values_missing_keys_and_blank_lines(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "answers": {"text": ["x"], "answer_start": [3]}},
        {"id": "b", "answers": {"text": [], "answer_start": []}, "n": 1},
    ]
    table = read_file(
        write(tmp_path, "a.jsonl", json.dumps(rows[0]) + "\n\n  \n" + json.dumps(rows[1]) + "\r\n"),
        "train",
    )
    assert table.column("answers") == [row["answers"] for row in rows]
    assert table.column("n") == [None, 1]
    assert table.lines == [1, 4]


def test_parquet_keeps_types_and_class_labels(tmp_path: Path) -> None:
    folder = tmp_path / "task=cola"
    folder.mkdir()
    features = {"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}
    rows = pa.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
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
        ("crcrlf.tsv", "text\tlabel\r\r\na\t1\r\r\nb\t0\r\r\n"),
        ("cr.tsv", "text\tlabel\ra\t1\rb\t0\r"),
        ("cr.jsonl", '{"text": "a", "label": "1"}\r{"text": "b", "label": "0"}\r'),
        ("bom.tsv", "\ufefftext\tlabel\na\t1\nb\t0"),
        ("index.csv", ",text,label\n0,a,1\n1,b,0\n"),  # as pandas writes the numbers of the rows
        # Excel leaves out fields at the end of some rows
        ("excel.csv", '\ufeffsep=,\n"\ufefftext",label,,\na,1,,\nb,0\n'),
        # as spreadsheets leave empty columns and rows
        ("sheet.csv", "text,label,,\na,1,,\n,,,\nb,0,,\n,,,\n"),
        ("a.json", '[{"text": "a", "label": "1", "more": [1]}, {"text": "b", "label": "0"}]'),
        (
            "data.json",
            '{"version": 1, "data": [{"text": "a", "label": "1"}, {"text": "b", "label": "0"}]}',
        ),
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
    articles = [
        {
            "title": "t",
            "paragraphs": [
                {"context": "the cat", "qas": [good, none, {"id": "3", "question": "?"}]}
            ],
        }
    ]
    table = read_file(
        write(tmp_path, name, json.dumps({"version": "v2.0", "data": articles})), "train"
    )
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
    rows = [
        {"text": "a", "n": number, f"key {number}": number, "\ud800": 1} for number in range(300)
    ] + [{"n": "odd"}]
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
        (
            "nice,bad",
            "no header line: its first line is 'nice, bad'",
            "write text,label as its first line",
        ),
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
        (
            "latin1.csv",
            "text,label\nab,1\ncafé,0\n".encode("latin-1"),
            "0xe9 is not UTF-8; the file may be Latin-1",
            3,
        ),
        ("latin1.jsonl", '{"a": 1}\n{"a": "é"}\n'.encode("latin-1"), "0xe9 is not UTF-8", 2),
        ("utf16.tsv", "text\tlabel\na\t1\n".encode("utf-16"), "UTF-16", 1),
        ("utf16.csv", "text,label\na,1\n".encode("utf-16-le"), "UTF-16", 1),
        (
            "many.csv",
            "text,label\na,1\nb, c,0\nd,1\ne,f,1\n",
            "has 3 fields, the header 2 (and 1 more: line 5)",
            3,
        ),
        ("few.csv", 'text,label\n"a\nb",1\nc\n', "has 1 field, the header 2", 4),
        ("many.tsv", "text\tlabel\na\tb\t1\n", "has 3 fields, the header 2", 2),
        ("quote.csv", 'text,label\na,1\n"b,0\nc,1\n', "not valid csv: unexpected end of data", 3),
        ("quote2.csv", 'text,label\n"a"b,1\n', "not valid csv", 2),
        ("twice.csv", "text,label,text\na,1,b\n", "names a column twice: text", 1),
        ("broken.jsonl", '{"a": 1}\n{"a": \n', "broken JSON at character 7", 2),
        ("list.jsonl", '{"a": 1}\n\n[1]\n', "[1] is not an object", 3),
        (
            "types.jsonl",
            '{"a": 1}\n{"a": 2}\n\n{"a": "x"}\n{"a": 3}\n',
            "column 'a': the value \"x\"",
            4,
        ),
        ("nested.jsonl", '{"a": {"b": [1]}}\n{"a": {"b": ["x"]}}\n', "column 'a': the value", 2),
        (
            "big.jsonl",
            '{"a": 1}\n{"a": 99999999999999999999999}\n',
            "column 'a': the value 9999",
            2,
        ),
        (
            "truth.jsonl",
            '{"a": 1}\n{"a": 0.5}\n{"a": true}\n{"a": 2}\n',
            "column 'a': the value true does not have the type",
            3,
        ),
        (
            "surrogate.jsonl",
            '{"a": "x"}\n{"a": "\\ud800"}\n',
            "column 'a' holds half a surrogate pair, \\ud800, which is no character",
            2,
        ),
        (
            "half.jsonl",
            '{"a": ["\\udc00"]}\n{"a": []}\n{"a": ["\\udc01x"]}\n',
            "pair, \\udc00, which is no character (and 1 more",
            1,
        ),
        (
            "again.csv",
            "text,label\na,1\n\ufeffText, label\nb,0\ntext,label\n",
            "repeats the header (and 1 more: line 5)",
            3,
        ),
        ("again.tsv", "text\tlabel\t\na\t1\ntext\tlabel\n", "the row repeats the header", 3),
        (
            "order.csv",
            "text,label\na,1\nlabel,text\n0,b\n",
            "a header with the columns in another order",
            3,
        ),
        (
            "again.jsonl",
            '{"n": 1, "a": "x", "b": "y"}\n{"n": 2, "a": "a", "b": "b"}\n',
            "the row repeats the header",
            2,
        ),
        (
            "keys.jsonl",
            '{"a": 1}\n{"a": 1, "b": {}, "a": 2}\n{"b": [{"c": 1, "c": 1}]}\n',
            "the key 'a' twice (and 1 more: line 3)",
            2,
        ),
        (
            "nul.csv",
            "text,label\na,1\nb\0,0\n",
            "the line holds the byte 0x00, which no text has",
            3,
        ),
        ("zeros.jsonl", '{"a": 1}\n' + "\0" * 500, "the line holds the byte 0x00", 2),
        ("wide.csv", "text,label\na,1\n".encode("utf-32-be"), "looks like UTF-32", 1),
        (
            "nameless.csv",
            "a,,\nx,,\ny,,z\n",
            "column 3 has no name, and the value 'z' in line 3",
            1,
        ),
    ],
)
def test_a_fault_names_its_line(
    tmp_path: Path, name: str, content: str | bytes, what: str, line: int
) -> None:
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
        ("broken.parquet", b"PAR1\x15\0", "damaged or not parquet"),
        ("data.xlsx", b"PK", "unknown kind of file '.xlsx'"),
        ("columns.json", b'{"a": {"0": 1}, "b": {"1": 1}}', "one JSON value, not a list of rows"),
        ("numbers.json", b"[1]", "1 is not an object"),
        ("none.json", b"[]", "the file has no rows"),
        ("separators.csv", b",,\n,,\n", "the file is empty"),
        ("a.parquet.gz", b"", "unknown kind of file '.parquet.gz'"),
        ("data.json", b"{}", "one JSON value, not a list of rows"),
    ],
)
def test_a_useless_file_is_refused(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    assert what in problem(write(tmp_path, name, content)).what


def zipped(name: str) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


def written(name: str) -> bytes:
    rows = pa.table({"text": ["a"], "label": ["1"]})
    (pq.write_table if name == "parquet" else pa.feather.write_feather)(
        rows, sink := pa.BufferOutputStream()
    )
    return bytes(sink.getvalue())


CSV = b"text,label\na,1\n"


@pytest.mark.parametrize(
    ("name", "content", "what", "fix"),
    [
        (
            "a b.csv",
            gzip.compress(CSV),
            "the file is compressed (gz)",
            "let its name end in .csv.gz: mv 'a b.csv' 'a b.csv.gz'",
        ),
        ("a.tsv", bytes(pa.Codec("zstd").compress(CSV)), "compressed (zst)", "mv a.tsv a.tsv.zst"),
        ("a.csv.gz", bz2.compress(CSV), "compressed (bz2)", "mv a.csv.gz a.csv.bz2"),
        ("a.parquet", lzma.compress(CSV), "not parquet but compressed (xz)", "unpack it"),
        ("a.csv.gz", CSV, "the file is not compressed", "mv a.csv.gz a.csv"),
        (
            "a.jsonl.gz",
            gzip.compress(gzip.compress(CSV)),
            "compressed twice, the second time as gz",
            "unpack it once",
        ),
        (
            "a.csv.gz",
            gzip.compress(written("parquet")),
            "the file is parquet",
            "unpack it, and let its name end in .parquet",
        ),
        ("a.csv", written("parquet"), "the file is parquet", "mv a.csv a.parquet"),
        (
            "a.parquet",
            written("feather"),
            "an Arrow (Feather) file",
            "read_feather(...).to_parquet(...)",
        ),
        (
            "a.csv",
            zipped("xl/workbook.xml"),
            "an Excel sheet or another document",
            "save the sheet as csv in UTF-8",
        ),
        ("a.csv", zipped("train.csv"), "a zip archive", "unpack it"),
        (
            "a.tsv",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
            "an old Excel sheet",
            "save the sheet as csv in UTF-8",
        ),
        ("a.jsonl", b"\x80\x04\x95" + bytes(9), "a pickle", "write its rows as parquet"),
        ("a.csv", b"\n<!DOCTYPE html>\n<html>", "a web page", "the download went wrong"),
        (
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS",
            "type git lfs pull",
        ),
        (
            "a.csv",
            b'{"text": "a", "label": "1"}\n',
            "the file is jsonl, not csv",
            "mv a.csv a.jsonl",
        ),
        ("a.tsv", b'[\n {"text": "a"}]', "the file is json, not tsv", "mv a.tsv a.json"),
        ("a.jsonl", CSV, "the file is csv, not jsonl", "mv a.jsonl a.csv"),
        (
            "a.json.gz",
            gzip.compress(b"text\tlabel\na\t1\n"),
            "the file is tsv, not json",
            "mv a.json.gz a.tsv.gz",
        ),
        ("a.parquet", CSV, "the file is csv, not parquet", "mv a.parquet a.csv"),
        ("a.parquet", b"hello\n", "the file is text, not parquet", "let its name end in .csv"),
    ],
    # Archives hold the time of day, and workers must agree on the names of tests.
    ids=lambda value: "content" if isinstance(value, bytes) else None,
)
def test_a_file_that_is_something_else_than_its_name_says(
    tmp_path: Path, name: str, content: bytes, what: str, fix: str
) -> None:
    found = problem(write(tmp_path, name, content))
    assert what in found.what and fix in found.fix


def test_text_may_begin_like_another_kind_of_file(tmp_path: Path) -> None:
    for name in ("PAR1", "ORC", "BZh9", "html", "version https://x"):
        assert read_file(
            write(tmp_path, "a.csv", f"{name},label\na,1\n"), "train"
        ).rows.column_names == [name, "label"]


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    """Where it is not read nothing is wrong; in a list and in SQuAD's form the place is named."""
    path = write(tmp_path, "a.json", '[{"a": 1}, {"a": 1, "b": 2, "b": 3}, {"b": 1, "b": 1}]')
    assert read_file(path, "train", ["a"]).column("a") == [1, 1, None]
    assert (
        problem(path).where.endswith("a.json, row 2")
        and problem(path).what == "the object has the key 'b' twice (and 1 more)"
    )
    article = '{"paragraphs": [{"context": "c", "qas": [{"id": "1", "id": "2", "question": "?"}]}]}'
    assert problem(write(tmp_path, "b.json", f'{{"data": [{article}]}}')).where.endswith(
        "b.json, data[0].paragraphs[0].qas[0]"
    )
    assert (
        "the key 'data' twice"
        in problem(write(tmp_path, "c.json", '{"data": [{"a": 1}], "data": [{"a": 2}]}')).what
    )


def test_a_word_that_is_the_name_of_its_column(tmp_path: Path) -> None:
    """One column says nothing: it may be a list of words; nor does a part of the columns. In all of
    them it is a header, needed or not."""
    with pytest.raises(UserError, match="repeats the header"):
        read_file(write(tmp_path, "c.csv", "text,label\na,1\ntext,label\n"), "train", ["text"])
    assert read_file(write(tmp_path, "a.csv", "word\nthe\nword\n"), "train").column("word") == [
        "the",
        "word",
    ]
    assert (
        len(
            read_file(
                write(tmp_path, "b.csv", "text,label\ntext,1\nb,label\nlabel,label\n"), "train"
            )
        )
        == 3
    )


def test_only_the_first_broken_lines_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_file(write(tmp_path, "a.jsonl", '{"a": 1}\n' + "{\n" * 10), "train")
    (found,) = caught.value.problems
    assert found.what.endswith("(and 9 more: lines 3, 4, 5, 6, ...)") and found.where.endswith(
        "line 2"
    )


def test_damaged_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": [f"text {number}" for number in range(5000)]}),
        path := tmp_path / "a.parquet",
        compression="zstd",
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert "damaged or not parquet" in problem(path).what
    path.write_bytes(data[:200] + bytes(2000) + data[2200:])
    assert "damaged or not parquet" in problem(path).what


def test_parquet_text_that_is_not_utf8(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xe9")]
    )
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
