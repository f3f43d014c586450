"""Compressed text files: read as others are, damage is named, and what is too large is refused
before it is unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pyarrow as pa
import pytest

from mtlcli.data import unpack
from mtlcli.data.read import read_file
from mtlcli.errors import Problem, UserError

PACKED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: bytes(pa.Codec("zstd").compress(content)),
}
CONTENT = b"text,label\n" + b"a,1\nb,0\n" * 2000


def problem(path: Path, content: bytes) -> Problem:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_file(path, "train")
    (found,) = caught.value.problems
    assert str(path) in found.where and found.fix
    return found


@pytest.mark.parametrize("packed", PACKED)
def test_compressed_text(tmp_path: Path, packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.csv.{packed}"
    whole = PACKED[packed](CONTENT)
    path.write_bytes(whole)
    assert read_file(path, "train").rows.to_pydict() == {
        "text": ["a", "b"] * 2000,
        "label": ["1", "0"] * 2000,
    }
    for broken in (whole[:-9], b"\xff" + whole):
        assert "damaged or of another kind" in problem(path, broken).what
    row = problem(tmp_path / f"b.jsonl.{packed}", PACKED[packed](b'{"a": 1}\n{\n'))
    assert row.where.endswith(f"b.jsonl.{packed}, line 2")
    latin = problem(tmp_path / f"c d.tsv.{packed}", PACKED[packed](b"text\tlabel\n\xe9\t1\n"))
    assert (
        latin.where.endswith("line 2")
        and f"'c d.tsv.{packed}' | iconv -f LATIN1 -t UTF-8 > new.tsv" in latin.fix
    )
    monkeypatch.setattr(unpack, "free_memory", lambda: 10_000_000)
    bomb = problem(path, PACKED[packed](bytes(20_000_000)))
    assert (
        bomb.what
        == "reading what the archive holds takes 10.0 MB of memory or more, and 9.5 MB is free"
    )


def test_text_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "free_memory", lambda: 5 * len(CONTENT) - 1)
    found = problem(tmp_path / "a.csv", CONTENT)
    assert found.what == "reading the file takes 78.2 kB of memory or more, and 78.2 kB is free"
