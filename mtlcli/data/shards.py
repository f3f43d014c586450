"""Reading of a split that lies in several files, such as a folder of shards.

The files are read one after the other. What a text file takes while it is read, about five times
its size, is therefore needed for one file at a time. The needed columns of all files stay in memory
(`read_shards`), or go to the disk one file after another (`shards_on_disk`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from mtlcli.config.formats import ending
from mtlcli.data.nested import unnest
from mtlcli.data.on_disk import kept, key_of, of_files
from mtlcli.data.read import read_file
from mtlcli.data.table import Table
from mtlcli.disk import sha256
from mtlcli.errors import UserError


def read_shards(
    paths: Sequence[Path],
    origin: str,
    split: str,
    columns: Sequence[str] | None,
    header: Sequence[str] | None,
) -> Table:
    """Return the rows of several files, in their order, as the rows of one split. `origin`: the
    folder or the pattern. Raises UserError when a file cannot be read, when the files are not of
    one format, or when their columns differ."""
    tables = list(_one_by_one(paths, origin, split, columns, header))
    first = tables[0]
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + len(table))
    try:
        rows = pa.concat_tables([table.rows for table in tables], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise _different_types(error, origin) from error
    return replace(
        first,
        rows=rows.replace_schema_metadata(first.rows.schema.metadata),
        origin=origin,
        lines=None
        if first.lines is None
        else np.concatenate([np.asarray(table.lines, np.int64) for table in tables]),
        files=[(start, table.origin) for start, table in zip(starts, tables, strict=False)],
    )


def shards_on_disk(
    paths: Sequence[Path],
    origin: str,
    split: str,
    columns: Sequence[str],
    header: Sequence[str] | None,
    *,
    needed: Sequence[str],
    fingerprint: str,
    cache: Path,
) -> Table:
    """Return the rows of one or several files as `read_shards` and `unnest` do, but on disk: the
    rows of a file are written below `cache` before the next file is read.

    `needed`: the columns that the task needs, of which `columns` are the names in the files.
    `fingerprint`: that of the files, which have been read before where the rows are there already.
    """
    several = len(paths) > 1 or str(paths[0]) != origin

    def tables() -> Iterator[Table]:
        for table in _one_by_one(paths, origin, split, columns, header):
            yield unnest(table, needed)

    def whole() -> Table:
        if several:
            return unnest(read_shards(paths, origin, split, columns, header), needed)
        return next(tables())

    name = key_of(fingerprint, [ending(path) for path in paths], list(needed), header)
    try:
        found = kept(cache / "rows" / name, tables, whole)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise _different_types(error, origin) from error
    return of_files(found, origin, split, [str(path) for path in paths] if several else None)


def _one_by_one(
    paths: Sequence[Path],
    origin: str,
    split: str,
    columns: Sequence[str] | None,
    header: Sequence[str] | None,
) -> Iterator[Table]:
    """Yield the table of each file. Raises UserError when the files do not belong together."""
    kinds = sorted({ending(path) for path in paths})
    if len(kinds) > 1:
        raise UserError(
            f"the files are of several formats: {', '.join(kinds)}",
            origin,
            f"name those that are meant by a pattern, such as '{paths[0].parent}/*.{kinds[0]}'",
        )
    first: Table | None = None
    for path in paths:
        table = read_file(path, split, columns, header)
        if first is None:
            first = replace(table, rows=table.rows.slice(0, 0))
        else:
            _same_columns(first, table, columns)
        yield table


def _different_types(error: pa.ArrowException, origin: str) -> UserError:
    return UserError(
        f"a column has different types in the files: {str(error).splitlines()[0]}",
        origin,
        "write its values in the same way in each file",
    )


def shards_fingerprint(paths: Sequence[Path]) -> str:
    """Return one SHA-256 for the bytes of several files."""
    return hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()


def _same_columns(first: Table, table: Table, columns: Sequence[str] | None) -> None:
    """Raise UserError if a file has other columns than the first, among those that are needed, or
    other names for the classes in them."""
    here, there = set(table.all_names), set(first.all_names)
    if columns is not None:
        here, there = here & set(columns), there & set(columns)
    if here != there:
        parts = [
            f"{what} {', '.join(sorted(names))}"
            for what, names in (("lacks", there - here), ("has", here - there))
            if names
        ]
        raise UserError(
            f"its columns are not those of {first.origin}: it {' and '.join(parts)}",
            table.origin,
            "give all files the same columns, or name fewer files",
        )
    for column in sorted(here):
        if table.class_names(column) != first.class_names(column):
            raise UserError(
                f"the numbers in column '{column}' have other names than in {first.origin}",
                table.origin,
                "write the files with the same names for the classes, in the same order",
            )
