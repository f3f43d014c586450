"""Columns inside other columns: `translation.de` is the field `de` of the objects in the column
`translation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from mtlcli.data.table import Table


def stored(columns: Sequence[str]) -> list[str]:
    """Return the names under which a file may hold the needed columns: for `translation.de` the
    name itself, `translation`, or `de` alone."""
    names = [
        name
        for column in columns
        for name in (column, *((column.split(".")[0], column.split(".")[-1]) * ("." in column)))
    ]
    return list(dict.fromkeys(names))


def unnest(table: Table, columns: Sequence[str]) -> Table:
    """Return the table with a column of its own for each needed name with dots that it lacks.

    `translation.de` is the field `de` of the column `translation`. In a table without a column
    `translation`, it is the column `de`: some data sets are published in both forms.
    """
    dotted = [name for name in columns if "." in name and name not in table.all_names]
    if not dotted:
        return table
    rows, names = table.rows, list(table.all_names)
    for column in dotted:
        root, *fields = column.split(".")
        if root in rows.column_names:
            found = rows.column(root)
            names += [name for name in _leaves(root, found.type) if name not in names]
            if column in names:
                rows = rows.append_column(column, pc.struct_field(found, fields))
        elif fields[-1] in rows.column_names:
            rows = rows.append_column(column, rows.column(fields[-1]))
            names.append(column)
    extra = set(stored(dotted)) - set(columns)
    kept = [name for name in rows.column_names if name not in extra]
    return replace(table, rows=rows.select(kept), names=names)


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    """Return the names of all fields of a column, at any depth."""
    if not pa.types.is_struct(kind):
        return []
    return [
        leaf
        for field in kind
        for leaf in (f"{name}.{field.name}", *_leaves(f"{name}.{field.name}", field.type))
    ]
