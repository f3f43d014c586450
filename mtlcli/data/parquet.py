"""Reading of the needed columns of parquet files. Whatever layout the writer chose becomes plain
text, numbers, lists and structs.

The change of layout is by hand, since Arrow's own `cast` (26.0) makes invalid arrays of list views,
and cannot write out a dictionary of string views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtlcli.data.table import ID_COLUMNS, integer_array
from mtlcli.data.unpack import first_line, too_large
from mtlcli.errors import Problem, UserError
from mtlcli.memory import free_memory

TIMES = 2
"""Memory that reading needs, as a multiple of the size of the rows in memory: once as columns, once
as Python text."""
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}
"""Bytes of a value in memory, by physical type; other numbers have 8."""
PORTION = 1 << 28
"""The most bytes of texts in lists that are read at once."""
LONGEST = 2**31 - 1
"""The most bytes of text that one array of type `string` can hold."""


def read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[pa.Table, list[str]]:
    """Return the rows of a parquet file with those of `columns` that the file has (None: all), and
    the names of all its columns. Raises UserError when the file is damaged, not parquet, has two
    columns of one name, or is too large for the free memory."""
    import pyarrow.parquet as pq

    try:
        # Not `read_table`: it would turn a folder named `a=b` on the way into a column.
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if repeated := repeats(names):
                raise UserError(
                    f"the file has a column twice: {', '.join(repeated)}",
                    str(path),
                    "rename one of them",
                )
            wanted = [name for name in names if columns is None or name in (*columns, *ID_COLUMNS)]
            nested = [
                name for name in wanted if pa.types.is_nested(file.schema_arrow.field(name).type)
            ]
            texts, largest = _look_at_sizes(path, file, wanted)
            in_lists = _nested(path, file, nested, largest) if nested else {}
        # As a dictionary, a text that many rows share is in memory once. Its copies are written out
        # only after `plain_rows` has checked their total size.
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            flat = file.read(columns=[name for name in wanted if name not in nested])
        rows = pa.table(
            {name: in_lists[name] if name in nested else flat.column(name) for name in wanted}
        )
        rows = rows.replace_schema_metadata(flat.schema.metadata)
    except (pa.ArrowMemoryError, pa.ArrowNotImplementedError):
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = first_line(error)
        raise UserError(
            f"the parquet file is damaged or not parquet: {reason}",
            str(path),
            "download or write the file again; a csv, tsv or jsonl file needs its own extension",
        ) from error
    return plain_rows(rows, str(path), columns), names


def repeats(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _look_at_sizes(path: Path, file: Any, columns: Sequence[str]) -> tuple[list[str], int]:
    """Raise UserError if the columns are too large for the free memory, judged by the sizes in the
    file's metadata.

    Returns the names of the text columns in which rows may share a text (dictionary encoding), and
    the greatest number of bytes that such a text inside a list may have.
    """
    paths = [file.schema.column(number).path for number in range(len(file.schema))]
    leaves = [
        number
        for number, leaf in enumerate(paths)
        if any(f"{leaf}.".startswith(f"{name}.") for name in columns)
    ]
    needed, largest, texts = 0, 1, set()
    for group in range(file.metadata.num_row_groups):
        # A faulty column description would end the process when its metadata is asked for. Reading
        # one row first turns the fault into an exception.
        next(file.iter_batches(batch_size=1, row_groups=[group], columns=list(columns)), None)
        for number in leaves:
            leaf = file.metadata.row_group(group).column(number)
            if leaf.physical_type == "BYTE_ARRAY":
                needed += leaf.total_uncompressed_size + 4 * leaf.num_values
                if any("DICTIONARY" in encoding for encoding in leaf.encodings):
                    texts.add(paths[number])
                    if paths[number] not in columns:
                        largest = max(largest, leaf.total_uncompressed_size)
            else:
                needed += max(
                    leaf.total_uncompressed_size,
                    WIDTHS.get(leaf.physical_type, 8) * leaf.num_values,
                )
    _refuse(path, needed, columns)
    return sorted(texts.intersection(columns)), largest


def _nested(
    path: Path, file: Any, columns: Sequence[str], largest: int
) -> dict[str, pa.ChunkedArray]:
    """Read columns of lists and structs. Their texts cannot be read as a dictionary, so the columns
    are read a few rows at a time, until they are complete or too large for the free memory
    (UserError).

    largest: the greatest number of bytes of a text that rows share.
    """
    rows = max(16, min(PORTION // largest, 1 << 16))
    batches, size = [], 0
    for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
        batches.append(batch)
        size += batch.nbytes
        _refuse(path, size, columns)
    table = pa.Table.from_batches(batches) if batches else file.read(columns=list(columns))
    return {name: table.column(name) for name in columns}


def _refuse(path: Path | str, needed: int, columns: Iterable[str]) -> None:
    free = free_memory()
    if needed * TIMES > free:
        named = ", ".join(f"'{name}'" for name in columns)
        raise too_large(Path(path), f"reading {named}", needed * TIMES, free)


# ------------------------------------------------------------------------------------------------
# plain layouts


def plain_rows(rows: pa.Table, origin: str, needed: Sequence[str] | None = None) -> pa.Table:
    """Return the same rows with columns of plain types: text (also from views, dictionaries and
    bytes in UTF-8), numbers (also from decimals), and lists and structs of them. Other types stay
    as they are. A column with more than LONGEST bytes of text becomes `large_string`.

    Raises UserError with every column whose text or bytes are not UTF-8, or with the first column
    that is too large for the free memory. An unreadable column that is not among the `needed` ones
    (None: all are needed) is left out instead.
    """
    problems, arrays = [], {}
    for name in rows.column_names:
        column = rows.column(name)
        try:
            column.validate(full=True)
            sizes = [_expanded(chunk) for chunk in column.chunks]
            _refuse(origin, sum(sizes), [name])
            large = sum(sizes) > LONGEST
            chunks = [_plain(chunk, large) for chunk in column.chunks]
            kind = None if chunks else _plain(pa.nulls(0, column.type), large).type
            arrays[name] = pa.chunked_array(chunks, kind)
        except (pa.ArrowInvalid, pa.ArrowIndexError, pa.ArrowNotImplementedError) as error:
            if needed is None or name in needed:
                problems.append(_unreadable(name, column, origin, first_line(error)))
    if problems:
        raise UserError(problems)
    return pa.table(arrays).replace_schema_metadata(rows.schema.metadata)


def _unreadable(name: str, column: pa.ChunkedArray, origin: str, reason: str) -> Problem:
    what = f"column '{name}' of type {column.type} cannot be read: {reason}"
    fix = "write the column as text in UTF-8, as numbers, or as lists of them"
    for row, value in enumerate(_as_bytes(column)):
        try:
            value.decode()
        except UnicodeDecodeError as error:
            what = (
                f"column '{name}' holds bytes that are not UTF-8: 0x{value[error.start]:02x} at "
                f"byte {error.start + 1}"
            )
            return Problem(
                what, f"{origin}, row {row + 1}", "write it as text in UTF-8, or leave the row out"
            )
    return Problem(what, origin, fix)


def _as_bytes(column: pa.ChunkedArray) -> Iterable[bytes]:
    """Yield the values of a column of text or bytes; yield nothing for other types."""
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.dictionary.take(chunk.indices)
        try:
            values = chunk.cast(pa.large_binary())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return
        yield from (value.as_py() or b"" for value in values)


def _expanded(array: pa.Array) -> int:
    """Return the number of bytes of an array once its dictionaries are written out."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        words = array.dictionary
        if not (_is_textual(words.type) and not pa.types.is_fixed_size_binary(words.type)):
            return 8 * len(array)
        lengths = pc.binary_length(_unviewed(words)).cast(pa.int64())
        return 4 * len(array) + (pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_expanded, array.flatten()))
    if _is_listed(kind):
        return 4 * len(array) + _expanded(array.flatten())
    return int(array.nbytes)


def _plain(array: pa.Array, large: bool) -> pa.Array:
    """Return an array in a plain layout; its text is `large_string` if `large` is true."""
    kind = array.type
    text = pa.large_string() if large else pa.string()
    if _is_plain(kind) and not large:
        return array
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(array.storage, large)
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary, large).take(array.indices)
    if _is_textual(kind):
        return array if kind == text else _unviewed(array).cast(text)
    if pa.types.is_decimal(kind):
        return array.cast(pa.int64() if kind.scale <= 0 and kind.precision <= 18 else pa.float64())
    if pa.types.is_struct(kind):
        children = [_plain(child, large) for child in array.flatten()]
        return pa.StructArray.from_arrays(
            children, names=[field.name for field in kind], mask=array.is_null()
        )
    if _is_listed(kind):
        lengths = pc.list_value_length(array).fill_null(0).cast(pa.int64())
        offsets = np.concatenate([[0], np.cumsum(np.from_dlpack(lengths))])
        values, absent = _plain(array.flatten(), large), array.is_null()
        if offsets[-1] <= LONGEST:
            return pa.ListArray.from_arrays(
                integer_array(offsets.astype(np.int32)), values, mask=absent
            )
        return pa.LargeListArray.from_arrays(integer_array(offsets), values, mask=absent)
    return array


def _unviewed(array: pa.Array) -> pa.Array:
    """Return text or bytes as bytes with offsets, which every function of Arrow takes."""
    return array.cast(pa.large_binary())


def _is_textual(kind: pa.DataType) -> bool:
    """Return whether a type holds text or bytes, which may be text."""
    strings = (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
    some = (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )
    return strings or some or pa.types.is_fixed_size_binary(kind)


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether a type is text or numbers in their usual layout, or lists or structs of
    them."""
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if pa.types.is_list(kind):
        return _is_plain(kind.value_type)
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return numbers or pa.types.is_string(kind) or pa.types.is_null(kind)


def _is_listed(kind: pa.DataType) -> bool:
    views = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return (
        views
        or pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    )
