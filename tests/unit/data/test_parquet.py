"""Parquet: every layout of a column becomes plain, what is no text is named, and sizes are looked
at before they are believed."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtlcli.data import parquet
from mtlcli.data.read import read_file
from mtlcli.errors import UserError

ANSWERS = pa.struct(
    [("text", pa.list_view(pa.string_view())), ("answer_start", pa.large_list(pa.int32()))]
)
COLUMNS: list[tuple[pa.Array, list[Any]]] = [
    (pa.array(["a", None, "é"], pa.string_view()), ["a", None, "é"]),  # as polars writes text
    (pa.array(["a", None, "é"], pa.large_string()), ["a", None, "é"]),
    (pa.array(["b", None, "b"]).dictionary_encode(), ["b", None, "b"]),  # a categorical of pandas
    (pa.array([7, None, 7]).dictionary_encode(), [7, None, 7]),
    (pa.array(["é".encode(), None, b""]), ["é", None, ""]),
    (pa.array([b"a", None, b"b"], pa.binary_view()), ["a", None, "b"]),
    (pa.array([b"ab", None, b"cd"], pa.binary(2)), ["ab", None, "cd"]),
    (pa.array([Decimal(1), None, Decimal(3)], pa.decimal128(5)), [1, None, 3]),
    (pa.array([Decimal("1.5"), None, Decimal(3)], pa.decimal256(40, 2)), [1.5, None, 3.0]),
    (
        pa.array([["a"], None, ["b", "a"]], pa.list_view(pa.string_view())),
        [["a"], None, ["b", "a"]],
    ),
    (pa.array([[1], None, [2]], pa.list_(pa.int16(), 1)), [[1], None, [2]]),
    (pa.array([["a", "a"], None, []], pa.large_list(pa.string())), [["a", "a"], None, []]),
    (
        pa.array([{"text": ["a"], "answer_start": [3]}, None], ANSWERS),
        [{"text": ["a"], "answer_start": [3]}, None],
    ),
]


@pytest.mark.parametrize(
    ("column", "values"), COLUMNS, ids=[str(column.type) for column, _ in COLUMNS]
)
def test_every_layout_becomes_plain(tmp_path: Path, column: pa.Array, values: list[Any]) -> None:
    pq.write_table(
        pa.table({"x": column, "unused": [b"\xff"] * len(column)}), path := tmp_path / "a.parquet"
    )
    table = read_file(path, "train", ["x", "absent"])
    assert table.column("x") == values
    assert table.all_names == ["x", "unused"] and table.rows.column_names == ["x"]
    kind = str(table.rows["x"].type)
    assert not any(
        word in kind for word in ("view", "dictionary", "decimal", "binary", "large", "fixed")
    )


def test_lists_of_texts_over_many_pages_and_row_groups(tmp_path: Path) -> None:
    """Arrow cannot keep such texts once where their dictionary changes within a file."""
    texts = [
        {"text": [f"text {number}", "again"], "answer_start": [number, 1]} for number in range(3000)
    ]
    rows = pa.table(
        {"answers": texts, "context": [f"about {number % 7}" for number in range(3000)]}
    )
    pq.write_table(
        rows,
        path := tmp_path / "a.parquet",
        row_group_size=1000,
        dictionary_pagesize_limit=2000,
        data_page_size=500,
    )
    assert read_file(path, "train").rows.to_pydict() == rows.to_pydict()


def test_bytes_that_are_no_text_are_named_with_their_row(tmp_path: Path) -> None:
    rows = pa.table(
        {"x": pa.array([b"a", b"b\xff"]), "y": pa.array([b"\xe9", None]).dictionary_encode()}
    )
    pq.write_table(rows, path := tmp_path / "a.parquet")
    with pytest.raises(UserError) as caught:
        read_file(path, "train")
    assert [(found.where, found.what) for found in caught.value.problems] == [
        (f"{path}, row 2", "column 'x' holds bytes that are not UTF-8: 0xff at byte 2"),
        (f"{path}, row 1", "column 'y' holds bytes that are not UTF-8: 0xe9 at byte 1"),
    ]


def test_a_damaged_file_is_always_an_error(tmp_path: Path) -> None:
    """Wherever bytes are wrong: some places in the description of the columns made arrow end the
    process, or raise other errors."""
    random = Random(7)
    rows = pa.table(
        {"text": ["a", "b", "b"] * 50, "label": pa.array(["x", "y", "y"] * 50).dictionary_encode()}
    )
    pq.write_table(rows, path := tmp_path / "a.parquet")
    good = path.read_bytes()
    for _ in range(150):
        data = bytearray(good)
        for _ in range(3):
            data[-1 - random.randrange(len(good))] = random.randrange(256)
        path.write_bytes(data)
        with suppress(UserError):
            read_file(path, "train", ["text", "label"])


def test_ids_are_kept_where_they_can_be(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "text": ["a"],
            "id": pa.array([b"\xff" * 16], pa.binary(16)),
            "idx": pa.array(["7"], pa.string_view()),
        }
    )
    pq.write_table(rows, path := tmp_path / "a.parquet")
    assert read_file(path, "train", ["text"]).rows.to_pydict() == {"text": ["a"], "idx": ["7"]}


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
def test_text_that_one_array_of_strings_cannot_hold(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LONGEST", 100)
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": ["x" * 60] * 2, "label": ["a", "b"]}), path)
    else:
        path.write_text({"a.csv": "text,label\n", "a.jsonl": ""}[name])
        with path.open("a") as file:
            for label in "ab":
                line = {
                    "a.csv": f"{'x' * 60},{label}",
                    "a.jsonl": f'{{"text": "{"x" * 60}", "label": "{label}"}}',
                }[name]
                file.write(line + "\n")
    table = read_file(path, "train")
    assert [table.rows[column].type for column in ("text", "label")] == [
        pa.large_string(),
        pa.string(),
    ]
    assert table.rows.to_pydict() == {"text": ["x" * 60] * 2, "label": ["a", "b"]}


def test_what_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a text that many rows share, of numbers in runs and of compressed text the file itself is
    small."""
    monkeypatch.setattr(parquet, "free_memory", lambda: 50_000_000)
    shared = pa.DictionaryArray.from_arrays(
        pa.array([0] * 500, pa.int32()), pa.array(["x" * 100_000])
    )
    columns = {
        "packed": pa.array(["x" * 100_000] * 500).take(pa.array(range(500))),
        "shared": shared,
        "in_lists": pa.ListArray.from_arrays(pa.array(range(501), pa.int32()), shared),
        "numbers": pa.array([7] * 4_000_000),
    }
    for name, column in columns.items():
        rows = pa.table({name: column, "small": pa.nulls(len(column), pa.bool_())})
        packed = {"use_dictionary": False} if name == "packed" else {}
        pq.write_table(rows, path := tmp_path / f"{name}.parquet", compression="zstd", **packed)
        assert path.stat().st_size < 200_000
        with pytest.raises(
            UserError,
            match=f"reading '{name}'.* takes .* MB of memory or more, and 47.7 MB is free",
        ):
            read_file(path, "train")
        assert read_file(path, "train", ["small"]).rows.column_names == ["small"]
