"""The encoded store: the features of a split on disk, built once and memory-mapped by every run,
rank and sweep job."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Features
from mtlcli.data.locks import PATIENCE, locked
from mtlcli.data.read import rows_fingerprint
from mtlcli.data.table import Table
from mtlcli.disk import reason, sha256, write_whole, writing
from mtlcli.errors import RunWarning, UserError, panicked
from mtlcli.tasks.base import TaskType

FORMAT = 4
"""Raise it whenever the files, or what a task type's `encode` gives for the same input, change."""

FIX = "make room or the place writable, or give data.cache_dir=FOLDER"

NOT_ENCODED = (
    "source",
    "splits",
    "head",
    "metrics",
    "weight",
    "batch_size",
    "lr_factor",
    "dropout",
    "head_layers",
) + (
    "unlabelled",
    "class_weights",
    "label_smoothing",
    "max_answer_length",
    "n_best",
    "no_answer_threshold",
)
"""Task settings that have no say in the features. A setting that is not named here, for example the
label set, does."""


_ARRAY = re.compile(r"ids|offsets|segments|(column|token)\.\w+")


def default_cache() -> Path:
    """Where the store is when `data.cache_dir` is null: $MTL_CACHE, else ~/.cache/mtl.

    Raises UserError when there is no home folder.
    """
    try:
        return Path(os.environ.get("MTL_CACHE") or "~/.cache/mtl").expanduser()
    except RuntimeError as error:
        raise UserError(
            "there is no home folder to keep the store of encoded rows in",
            where="data.cache_dir",
            fix="give data.cache_dir=FOLDER, or set MTL_CACHE",
        ) from error


def open_features(table: Table, task: TaskType[Any], encoder: TextEncoder, cache: Path) -> Features:
    """The features of a table, read-only and memory-mapped from `cache`; encoded first if they are
    not there yet.

    They are kept under a fingerprint of the rows, the columns, the task's settings and the
    tokenizer. Of several processes that come at once one encodes and the others wait; one that has
    waited for too long encodes for itself. An entry that is damaged is said and built anew. Raises
    UserError when the cache cannot be written.
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
                    features = _encoded(table, task, encoder)
                elif features is None:
                    features = _build(folder, table, task, encoder)
    except OSError as error:
        raise UserError(
            f"the store of encoded rows cannot be used: {reason(error, folder)}",
            str(folder.parent),
            FIX,
        ) from error
    return features


def _encoded(table: Table, task: TaskType[Any], encoder: TextEncoder) -> Features:
    try:
        return task.encode(table, encoder)
    except BaseException as error:
        if not panicked(error):
            raise
        reason = " ".join(str(error).split())[:100]
        fix = "bring back the tokenizer that the model was published with, or choose another model"
        raise UserError(
            f"the tokenizer fails on a text of it ({reason})", where=table.origin, fix=fix
        ) from error


def _build(folder: Path, table: Table, task: TaskType[Any], encoder: TextEncoder) -> Features:
    """Encode and store; the lock is ours."""
    if folder.exists():
        warnings.warn(
            f"the stored features of {table.origin} were damaged ({folder}); they are encoded "
            "again",
            RunWarning,
            stacklevel=2,
        )
        shutil.rmtree(folder)
    _save(_encoded(table, task, encoder), folder)
    features = _load(folder)
    assert features is not None, f"{folder} was written and cannot be read"
    return features


def fingerprint(table: Table, task: TaskType[Any], encoder: TextEncoder) -> str:
    """SHA-256 over everything that the features of a table depend on."""
    config = asdict(task.config)
    settings = {name: value for name, value in config.items() if name not in NOT_ENCODED}
    columns = [column for column in task.required_columns() if column in table.rows.column_names]
    # Which class a label is depends on more than its own column: on the names in the file's
    # metadata, and on the other splits.
    targets = task.targets(table)
    classes = None if targets is None else hashlib.sha256(targets.tobytes()).hexdigest()
    parts = [
        FORMAT,
        settings,
        rows_fingerprint(table.rows.select(columns)),
        classes,
        encoder.fingerprint,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _arrays(features: Features) -> dict[str, np.ndarray]:
    """All arrays by file name."""
    return {
        "ids": features.ids,
        "offsets": features.offsets,
        "segments": features.segments,
        **{f"column.{name}": values for name, values in features.columns.items()},
        **{f"token.{name}": values for name, values in features.token_columns.items()},
    }


def _save(features: Features, folder: Path) -> None:
    """Write an entry beside its place and move it there, so that what is in place is always
    complete."""
    partial = folder.with_suffix(".partial")
    # Left by a process that was killed; the lock is ours.
    shutil.rmtree(partial, ignore_errors=True)
    arrays = _arrays(features)
    needed = sum(values.nbytes for values in arrays.values())
    try:
        with writing(
            "the encoded rows",
            folder.parent,
            "or give data.cache_dir=FOLDER",
            needed=needed,
            kind=UserError,
        ):
            partial.mkdir()
            sizes, digests = {}, {}
            for name, values in arrays.items():
                path = partial / f"{name}.npy"
                with path.open("wb") as file:
                    np.save(file, values, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                sizes[name], digests[name] = path.stat().st_size, sha256(path)
            meta = {
                "format": FORMAT,
                "sizes": sizes,
                "sha256": digests,
                "notes": features.notes,
                "noted": features.noted,
            }
            write_whole(partial / "meta.json", json.dumps(meta))
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _load(folder: Path) -> Features | None:
    """The features of an entry, or None when it is missing or damaged."""
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
        # Everything is read once more, at some 2 GB/s: training on other tokens than the text's is
        # worse.
        if any(sha256(folder / f"{name}.npy") != meta["sha256"][name] for name in sizes):
            return None
        # Plain arrays on top of the maps: indexing numpy's memmap class itself costs several times
        # more. Only arrays can be mapped: neither pickled objects nor an archive are read.
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
        columns={
            name.removeprefix("column."): values
            for name, values in arrays.items()
            if name.startswith("column.")
        },
        token_columns={
            name.removeprefix("token."): values
            for name, values in arrays.items()
            if name.startswith("token.")
        },
        notes=notes,
        noted=noted,
    )
