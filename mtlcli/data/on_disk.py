"""Rows that do not have to fit into memory: tables in Arrow files, memory-mapped.

A split of several files is read one file after another, and the rows of each are written down
before the next is read, so that what a file takes while it is read is needed for one file at a
time. A table on disk is used like one in memory; what looks at all of its rows does so by
`Table.parts`. The format is Arrow's own (IPC), which pyarrow maps without copying. The loaders of
the datasets library are not used, since they report neither the line of a faulty row nor the rows
of a file that has other columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import mtlcli
from mtlcli.data.growing import GrowingArray
from mtlcli.data.locks import PATIENCE, locked
from mtlcli.data.table import PART, Table
from mtlcli.disk import reason, sha256, write_whole
from mtlcli.errors import RunWarning, UserError

FORMAT = 1
"""The version of these files. Raise it whenever their format changes, or what is read from the same
file of a user."""
FIX = "free space there, make the folder writable, or type data.cache_dir=FOLDER"


def key_of(*parts: Any) -> str:
    """Return the name of the folder of a table that is made from `parts`, which JSON can hold."""
    text = json.dumps([FORMAT, mtlcli.__version__, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def kept(folder: Path, tables: Callable[[], Iterator[Table]], whole: Callable[[], Table]) -> Table:
    """Return the rows of several tables as one table on disk, in `folder`, which is filled first if
    it does not have them yet.

    `tables`: makes the tables, one after another. `whole`: makes the table in memory; it is used
    where another process has been filling the folder for too long. Raises UserError when the folder
    cannot be used, or the types of a column have nothing in common.
    """
    try:
        found = _opened(folder)
        if found is not None:
            return found
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder, "to write the same rows", "reads them into memory") as holder:
            found = _opened(folder)
            if found is None and holder is None:
                _fill(folder, tables())
                found = _opened(folder)
                assert found is not None, f"{folder} was written and cannot be read"
    except OSError as error:
        raise UserError(
            f"the rows on disk cannot be used: {reason(error, folder)}", str(folder.parent), FIX
        ) from error
    if found is None:
        what = f"{holder} has held the lock of {folder} for {PATIENCE:g} s"
        warnings.warn(f"{what}; the rows are read into memory", RunWarning, stacklevel=2)
        return whole()
    return found


def selected(table: Table, rows: NDArray[np.int64]) -> Table:
    """Return some of the rows of a table on disk, by their places in ascending order, as a table on
    disk."""
    assert table.folder is not None
    if np.array_equal(rows, np.arange(len(table))):
        return table
    digest = hashlib.sha256(np.ascontiguousarray(rows, np.int64).data).hexdigest()
    folder = table.folder.with_name(key_of(table.folder.name, digest))

    def tables() -> Iterator[Table]:
        for part, start in zip(table.parts(), range(0, len(table), PART), strict=True):
            first, last = np.searchsorted(rows, [start, start + len(part)])
            if first < last:
                yield part.select(rows[first:last] - start)

    found = kept(folder, tables, lambda: replace(table, folder=None).select(rows))
    return replace(found, origin=table.origin, split=table.split, files=table.files)


def of_files(table: Table, origin: str, split: str, files: Sequence[str] | None) -> Table:
    """Return a table on disk with the names that its rows have in messages. `files`: the user's
    files, where there are several."""
    starts = [] if table.files is None else [start for start, _ in table.files]
    named = None if files is None else list(zip(starts, files, strict=True))
    return replace(table, origin=origin, split=split, files=named)


def _fill(folder: Path, tables: Iterator[Table]) -> None:
    """Write the files of a table beside their place and move them there, so that the folder in its
    place is always complete."""
    partial = folder.with_suffix(".partial")
    for left in (partial, folder):  # What a killed process left, and what is damaged.
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    arrays: dict[str, GrowingArray] = {}
    try:
        first: Table | None = None
        schemas: list[pa.Schema] = []
        starts = [0]
        for table in tables:
            first = first or replace(table, rows=table.rows.slice(0, 0))
            _write(partial / _name(len(schemas)), table.rows)
            schemas.append(table.rows.schema.remove_metadata())
            for name in ("lines", "numbers"):
                if (values := getattr(table, name)) is not None:
                    array = arrays.get(name) or GrowingArray(partial / f"{name}.npy")
                    arrays[name] = array
                    array.append(np.asarray(values, np.int64))
            starts.append(starts[-1] + len(table))
        assert first is not None, "a split has at least one file"
        metadata = first.rows.schema.metadata
        schema = pa.unify_schemas(schemas, promote_options="permissive").with_metadata(metadata)
        for number, each in enumerate(schemas):
            path = partial / _name(number)
            if not each.equals(schema.remove_metadata()):
                other = path.with_suffix(".other")
                _write(other, _promoted(_mapped(path), schema))
                other.replace(path)
        for array in arrays.values():
            array.close()
        files = sorted(path for path in partial.iterdir())
        meta = {
            "starts": starts[:-1],
            "names": first.names,
            "sizes": {path.name: path.stat().st_size for path in files},
            "sha256": {path.name: sha256(path) for path in files},
        }
        write_whole(partial / "meta.json", json.dumps(meta))
        partial.rename(folder)
    finally:
        for array in arrays.values():
            array.abandon()
        shutil.rmtree(partial, ignore_errors=True)


def _name(number: int) -> str:
    return f"{number:06d}.arrow"


def _write(path: Path, rows: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=PART)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _promoted(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), rows], promote_options="permissive")


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _opened(folder: Path) -> Table | None:
    """Return the table of a folder, or None when it is missing or damaged. Its `files` have the
    numbers of their first rows and no names yet."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name, size in dict(meta["sizes"]).items():
            path = folder / Path(name).name
            # Arrow trusts what it maps, so damaged content must not reach it.
            if path.stat().st_size != size or sha256(path) != meta["sha256"][name]:
                return None
        parts = [_mapped(folder / name) for name in sorted(meta["sizes"]) if ".arrow" in name]
        columns = {
            name: np.asarray(np.lib.format.open_memmap(folder / f"{name}.npy", mode="r"))
            for name in ("lines", "numbers")
            if f"{name}.npy" in meta["sizes"]
        }
        rows = pa.concat_tables(parts).replace_schema_metadata(parts[0].schema.metadata)
        files = [(int(start), "") for start in meta["starts"]]
        return Table(rows, "", "", files=files, names=meta["names"], folder=folder, **columns)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        return None
