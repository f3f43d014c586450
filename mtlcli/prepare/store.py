"""The encoded store: the features of a split on disk, built once and memory-mapped by every run,
rank and sweep job."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features, Sequences
from mtlcli.data.growing import GrowingArray
from mtlcli.data.locks import PATIENCE, locked
from mtlcli.data.read import rows_fingerprint
from mtlcli.data.table import NAMED, Table
from mtlcli.disk import reason, sha256, write_whole, writing
from mtlcli.errors import RunWarning, UserError, panicked
from mtlcli.tasks.base import TaskType

FORMAT = 5
"""The version of the store. Raise it whenever the format of the files changes, or what a task
type's `encode` returns for the same input."""

FIX = "free space there, make the folder writable, or type data.cache_dir=FOLDER"

_ARRAY = re.compile(
    r"ids|offsets|segments|groups|(column|token|target)\.\w+|sequence\.\w+\.(ids|offsets)"
)


def open_features(table: Table, task: TaskType[Any], encoder: TextEncoder, cache: Path) -> Features:
    """Return the features of a table, read-only and memory-mapped from `cache`. They are encoded
    first if the store does not have them yet.

    The key is a fingerprint of the rows, the columns, the task's settings and the tokenizer. If
    several processes need an entry at the same time, one encodes and the others wait; a process
    that has waited for too long encodes for itself, without the store. A damaged entry gives a
    warning and is built anew. Raises UserError when the cache cannot be written.
    """
    folder = cache / "features" / fingerprint(table, task, encoder)
    try:
        features = _load(folder)
        if features is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder) as holder:
                features = _load(folder)
                if features is None and holder is not None:
                    what = (
                        f"{holder} has held the lock of the stored features of {table.origin} "
                        f"for {PATIENCE:g} s"
                    )
                    warnings.warn(
                        f"{what}; the rows are encoded without the store", RunWarning, stacklevel=2
                    )
                    features = encoded(table, task, encoder)
                elif features is None:
                    features = _build(folder, table, task, encoder)
    except OSError as error:
        raise UserError(
            f"the store of encoded rows cannot be used: {reason(error, folder)}",
            str(folder.parent),
            FIX,
        ) from error
    return features


def _in_parts(
    table: Table, task: TaskType[Any], encoder: TextEncoder
) -> Iterator[tuple[Features, int]]:
    """Yield the features of a table part by part, with the number of rows of each, so that neither
    its texts nor its features are in memory as a whole. Where rows belong together, wherever they
    stand, the table is one part."""
    for part in table.parts() if task.config.together is None else [table]:
        yield encoded(part, task, encoder), len(part)


def encoded(table: Table, task: TaskType[Any], encoder: TextEncoder) -> Features:
    """Return the features of a table. Raises UserError when the tokenizer fails on a text."""
    try:
        return task.encode(table, encoder)
    except BaseException as error:
        if not panicked(error):
            raise
        reason = " ".join(str(error).split())[:100]
        fix = "bring back the tokenizer that the model was published with, or choose another model"
        raise UserError(
            f"the tokenizer fails on one of its texts ({reason})", where=table.origin, fix=fix
        ) from error


def _build(folder: Path, table: Table, task: TaskType[Any], encoder: TextEncoder) -> Features:
    """Encode and store an entry, whose lock this process has. A damaged entry in its place gives a
    warning and is replaced."""
    if folder.exists():
        warnings.warn(
            f"the stored features of {table.origin} were damaged ({folder}); they are encoded "
            "again",
            RunWarning,
            stacklevel=2,
        )
        shutil.rmtree(folder)
    _save(_in_parts(table, task, encoder), folder)
    features = _load(folder)
    assert features is not None, f"{folder} was written and cannot be read"
    return features


def fingerprint(table: Table, task: TaskType[Any], encoder: TextEncoder) -> str:
    """Return the SHA-256 of everything that the features of a table depend on."""
    columns = [column for column in task.required_columns() if column in table.rows.column_names]
    # The class of a label depends on more than the label's own column: on class names in the file's
    # metadata, and on the other splits.
    targets = task.targets(table)
    classes = (
        None if targets is None else hashlib.sha256(np.ascontiguousarray(targets).data).hexdigest()
    )
    parts = [
        FORMAT,
        task.encoding_settings(),
        [rows_fingerprint(part.rows.select(columns)) for part in table.parts()],
        classes,
        encoder.fingerprint,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _arrays(features: Features) -> dict[str, np.ndarray]:
    """Return all arrays of the features by file name."""
    return {
        "ids": features.ids,
        "offsets": features.offsets,
        "segments": features.segments,
        **({} if features.groups is None else {"groups": features.groups}),
        **{f"column.{name}": values for name, values in features.columns.items()},
        **{f"token.{name}": values for name, values in features.token_columns.items()},
        **{f"target.{name}": values for name, values in features.token_targets.items()},
        **{f"sequence.{name}.ids": each.ids for name, each in features.sequences.items()},
        **{f"sequence.{name}.offsets": each.offsets for name, each in features.sequences.items()},
    }


class _Joined:
    """Features that follow one another, in files that grow by each of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, GrowingArray] = {}
        self._ends: dict[str, int] = {}
        self._rows = 0
        self.notes: dict[str, int] = {}
        self.noted: dict[str, list[int]] = {}

    def append(self, features: Features, rows: int) -> None:
        """Add the features of the next `rows` rows."""
        for name, values in _arrays(features).items():
            if name not in self._files:
                self._files[name] = GrowingArray(self._folder / f"{name}.npy")
            # Offsets count from the beginning of all features, and so do rows.
            if name.endswith("offsets") or name == "groups":
                before = self._ends.get(name)
                piece = values if before is None else values[1:] + before
                self._ends[name] = int(piece[-1]) if len(piece) else before or 0
            else:
                piece = values + self._rows if name == "column.row" and self._rows else values
            self._files[name].append(piece)
        for what, count in features.notes.items():
            self.notes[what] = self.notes.get(what, 0) + count
        for what, numbers in features.noted.items():
            known = self.noted.setdefault(what, [])
            known += [number + self._rows for number in numbers[: NAMED - len(known)]]
        self._rows += rows

    def close(self) -> list[str]:
        """Complete the files. Returns the names of the arrays."""
        for file in self._files.values():
            file.close()
        return list(self._files)

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in self._files.values():
            file.abandon()


def _save(parts: Iterator[tuple[Features, int]], folder: Path) -> None:
    """Write an entry beside its place and move it there, so that the entry in its place is always
    complete. `parts`: features, and the number of rows that they were made from."""
    partial = folder.with_suffix(".partial")
    # A process that was killed left it: this one has the lock.
    shutil.rmtree(partial, ignore_errors=True)
    needed = 0
    joined = _Joined(partial)

    def storing() -> AbstractContextManager[None]:
        then = "or give data.cache_dir=FOLDER"
        what = "the encoded rows"
        return writing(what, folder.parent, then, needed=needed, kind=UserError)

    try:
        with storing():
            partial.mkdir()
        for features, rows in parts:
            needed += sum(values.nbytes for values in _arrays(features).values())
            with storing():
                joined.append(features, rows)
        with storing():
            names = joined.close()
            meta = {
                "format": FORMAT,
                "sizes": {name: (partial / f"{name}.npy").stat().st_size for name in names},
                "sha256": {name: sha256(partial / f"{name}.npy") for name in names},
                "notes": joined.notes,
                "noted": joined.noted,
            }
            write_whole(partial / "meta.json", json.dumps(meta))
            partial.rename(folder)
    except BaseException:
        joined.abandon()
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _load(folder: Path) -> Features | None:
    """Return the features of an entry, or None when it is missing or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        sizes, notes = (
            dict(meta["sizes"]),
            {name: int(count) for name, count in meta["notes"].items()},
        )
        if any(
            not _ARRAY.fullmatch(name) or (folder / f"{name}.npy").stat().st_size != size
            for name, size in sizes.items()
        ):
            return None
        # Check the content too, at some 2 GB/s: training on damaged tokens would be worse.
        if any(sha256(folder / f"{name}.npy") != meta["sha256"][name] for name in sizes):
            return None
        # Plain arrays on top of the maps, since indexing numpy's memmap class itself costs several
        # times more. `open_memmap` reads neither pickled objects nor archives.
        arrays = {
            name: np.asarray(np.lib.format.open_memmap(folder / f"{name}.npy", mode="r"))
            for name in sizes
        }
        if {array.dtype.kind for array in arrays.values()} - set("iufb"):
            return None
        noted = {name: [int(row) for row in rows] for name, rows in meta["noted"].items()}
        features = _features(arrays, notes, noted)
    except (
        FileNotFoundError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ):
        return None
    return features


def _features(
    arrays: dict[str, np.ndarray], notes: dict[str, int], noted: dict[str, list[int]]
) -> Features:
    return Features(
        ids=arrays["ids"],
        offsets=arrays["offsets"],
        segments=arrays["segments"],
        columns=_named(arrays, "column."),
        token_columns=_named(arrays, "token."),
        token_targets=_named(arrays, "target."),
        sequences={
            name.removesuffix(".ids"): Sequences(ids, arrays[f"sequence.{name[:-4]}.offsets"])
            for name, ids in _named(arrays, "sequence.").items()
            if name.endswith(".ids")
        },
        groups=arrays.get("groups"),
        notes=notes,
        noted=noted,
    )


def _named(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with a prefix, without the prefix."""
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }
