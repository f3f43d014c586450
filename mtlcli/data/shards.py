"""Reading of a split that lies in several files, such as a folder of shards.

The files are read one after the other. What a text file takes while it is read, about five times
its size, is therefore needed for one file at a time; the needed columns of all files stay in
memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from mtlcli.config.formats import ending
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
    kinds = sorted({ending(path) for path in paths})
    if len(kinds) > 1:
        raise UserError(
            f"the files are of several formats: {', '.join(kinds)}",
            origin,
            f"name those that are meant by a pattern, such as '{paths[0].parent}/*.{kinds[0]}'",
        )
    tables = [read_file(path, split, columns, header) for path in paths]
    first = tables[0]
    for table in tables[1:]:
        _same_columns(first, table, columns)
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + len(table))
    try:
        rows = pa.concat_tables([table.rows for table in tables], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise UserError(
            f"a column has different types in the files: {str(error).splitlines()[0]}",
            origin,
            "write its values in the same way in each file",
        ) from error
    lines = [line for table in tables for line in table.lines or []]
    return replace(
        first,
        rows=rows.replace_schema_metadata(first.rows.schema.metadata),
        origin=origin,
        lines=lines if first.lines is not None else None,
        files=[(start, table.origin) for start, table in zip(starts, tables, strict=False)],
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
