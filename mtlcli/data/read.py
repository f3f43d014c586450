"""One file of rows -> a table. Every fault names its line (text files) or says what the file is (parquet)."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtlcli.config.formats import ENDINGS, NAMED, ending
from mtlcli.data.delimited import csv_rows, delimited, tsv_rows
from mtlcli.data.objects import read_json, read_jsonl
from mtlcli.data.parquet import plain_rows, read_parquet
from mtlcli.data.table import Table
from mtlcli.data.unpack import first_line, text_bytes
from mtlcli.errors import UserError
from mtlcli.registry import nearest


def read_file(path: Path, split: str, columns: Sequence[str] | None = None) -> Table:
    """Read a file as the rows of `split`. `columns`: those that are needed; None: all.

    parquet: columns of views, dictionaries, decimals and bytes in UTF-8 become plain text and numbers. Text files are UTF-8,
    with or without a byte order mark, and may be compressed (.gz, .bz2, .xz, .zst); lines end in LF, CR LF or CR.
    csv: RFC 4180 with a header line. tsv: a header line, no quoting. Columns of csv and tsv hold text as it stands in the file,
    whatever it looks like, and null where a field is empty. jsonl: one object a line. json: a list of objects, or SQuAD's
    published form. Only the needed columns are kept, and those that number rows, where they can be.

    Raises UserError, with the line, when the file cannot be read, has no rows or does not fit into memory.
    """
    kind = ending(path)
    if kind not in ENDINGS:
        close = nearest(kind, ENDINGS)
        what = f"unknown kind of file '.{kind}'" if kind else "the name of the file has no ending"
        meant = f"did you mean .{close}? " if close else ""
        raise UserError(what, str(path), f"{meant}rows are read from {NAMED}")
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"the file {there}", str(path), "check the path; it is relative to the folder where mtl was typed")
    try:
        return _read(path, kind.partition(".")[0], split, columns)
    except OSError as error:
        raise UserError(f"the file cannot be read: {error}", str(path), "check its permissions, or copy it again") from error
    except MemoryError as error:  # Arrow's own is one, too.
        fix = "use a machine with more memory, or a file with fewer rows"
        raise UserError("the file does not fit into memory", str(path), fix) from error
    except pa.ArrowException as error:
        reason = first_line(error)
        fix = "write its columns as text, numbers or lists of them"
        raise UserError(f"the rows of the file cannot be used: {reason}", str(path), fix) from error


def _read(path: Path, kind: str, split: str, columns: Sequence[str] | None) -> Table:
    if kind == "parquet":
        rows, names = read_parquet(path, columns)
        return Table(rows, str(path), split, names=names)
    text = _decode(text_bytes(path), path)
    if not text.strip():
        raise UserError("the file is empty", str(path), "write rows into it, or name another file")
    if kind == "json":
        rows, lines, names = read_json(text, path, columns)
    elif kind == "jsonl":
        rows, lines, names = read_jsonl(text, path, columns)
    else:
        rows, lines, names = delimited(csv_rows(text, path) if kind == "csv" else tsv_rows(text), path, columns)
    return Table(plain_rows(rows, str(path)), str(path), split, lines, names=names)


def rows_fingerprint(rows: pa.Table) -> str:
    """SHA-256 of the names, types and values of a table's columns, however the table is cut into chunks."""
    digest = hashlib.sha256()
    # `take` writes fresh buffers: a slice would bring its neighbours' bits along. Of numpy's own array arrow would import pandas.
    places = pa.Array.from_buffers(pa.int64(), rows.num_rows, [None, pa.py_buffer(np.arange(rows.num_rows, dtype=np.int64))])
    fresh = rows.replace_schema_metadata(None).take(places).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, fresh.schema) as writer:
        writer.write_table(fresh)
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _decode(data: bytes, path: Path) -> str:
    """The text of a file in UTF-8; a fault names the line, the byte and the likely encoding."""
    wide = "UTF-32" if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) else "UTF-16"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:200]:
        what = f"the file is not UTF-8 but looks like {wide} or a binary file"
        raise UserError(what, f"{path}, line 1", _converted(wide, path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8; the file may be Latin-1"
        raise UserError(what, f"{path}, line {line}", _converted("LATIN1", path)) from error


def _converted(encoding: str, path: Path) -> str:
    """How to write a file anew in UTF-8."""
    kind, _, packed = ending(path).partition(".")
    unpack = {"": "", "gz": "gzip -dc", "bz2": "bzip2 -dc", "xz": "xz -dc", "zst": "zstd -dc"}[packed]
    name = shlex.quote(path.name)
    command = f"iconv -f {encoding} -t UTF-8"
    return f"save it as UTF-8: {f'{unpack} {name} | {command}' if packed else f'{command} {name}'} > new.{kind}"
