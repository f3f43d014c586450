"""Predictions for an input of any length: rows are read, encoded and answered a part at a time, in
constant memory, and their order is kept.

A thread reads and encodes the next part while the model answers this one. Within a part, inputs are
sorted by length, as in an evaluation: an input of no more rows than a part has the same batches as
there, and so the same predictions to the last digit.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from mtlcli.data.stream import Input, Part
from mtlcli.data.table import ID_COLUMNS, Table
from mtlcli.disk import flush, writing
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.predict.predictor import Answers, Encoded, Predictor
from mtlcli.predict.rows import input_columns, needed_columns, require_columns

PART = 4096
"""Rows of a part."""
NAMED = 20
"""The number of rows that cannot be read which are named; the others are counted."""

T = TypeVar("T")


@dataclass
class Counts:
    """What has been done with the rows of an input."""

    rows: int = 0
    """Rows that were read."""
    left_out: int = 0
    """Rows among them without a prediction of at least one task."""


def predict_rows(
    model: Predictor,
    source: Input,
    names: Sequence[str],
    write: Callable[[str], object],
    *,
    texts: bool = False,
    strict: bool = False,
    say: Callable[[str], None] = lambda text: None,
    on_part: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Write a line of JSON for each row of an input.

    `texts`: whether lines have the texts of the row. `strict`: whether a row that cannot be read
    raises UserError; else `say` is told, and the line says why. `on_part`: function that is called
    after each part. Raises UserError when the input as a whole does not fit the tasks, or none of
    its rows can be read.
    """
    counts, first = Counts(), None
    parts = ahead(_encoded_parts(model, source, names))
    for number, (part, encoded) in enumerate(parts):
        if number == 0 and len(names) > 1:
            say(_of_passes(model, encoded, names))
        faults = {(row, name) for name in names for row in encoded.rows[name].faults}
        for row, name in sorted(faults):
            problem = encoded.rows[name].faults[row]
            first = first or problem.of_task(name)
            if strict:
                raise UserError(problem.of_task(name))
        left_out = sorted({row for row, _ in faults})
        for row in left_out[: max(0, NAMED - counts.left_out)]:
            name = next(name for name in names if (row, name) in faults)
            problem = encoded.rows[name].faults[row]
            of = f" (task {name})" if len(names) > 1 else ""
            say(f"row {part.table.number(row):,} is left out{of}: {problem.where}: {problem.what}")
        counts.left_out += len(left_out)
        write(_lines(model, part.table, model.answer(encoded), texts=texts))
        counts.rows += len(part.table)
        on_part(counts)
    if counts.left_out > NAMED:
        say(f"{count_of(counts.left_out, 'row')} of {counts.rows:,} left out in all")
    if first is not None and counts.left_out == counts.rows:
        raise UserError([Problem("no row can be read", source.origin), first])
    if not counts.rows:
        say(f"{source.origin} has no rows")
    return counts


def _encoded_parts(
    model: Predictor, source: Input, names: Sequence[str]
) -> Iterator[tuple[Part, Encoded]]:
    tasks = [model.task_types[name] for name in names]
    for number, part in enumerate(source.parts(needed_columns(tasks), PART)):
        if source.kind == "txt":
            part = replace(part, table=_of_lines(model, part.table, names))
        elif number == 0:
            for task in tasks:
                require_columns(task, part.table.all_names, source.origin)
        yield part, model.prepare(_complete(model, part.table, names), names, part.faults)


def _of_lines(model: Predictor, table: Table, names: Sequence[str]) -> Table:
    """Return a table of plain lines, in which the text is the column of each task."""
    rows = table.rows
    text = rows.column("text")
    for name in names:
        columns = input_columns(model.task_types[name])
        if len(columns) != 1:
            raise UserError(
                f"task {name} reads {' and '.join(columns)}, and a plain line is one text",
                table.origin,
                "send csv, tsv or jsonl with these columns (--format csv|tsv|jsonl)",
            )
        if columns[0] not in rows.column_names:
            rows = rows.append_column(columns[0], text)
    return replace(table, rows=rows, names=rows.column_names)


def _complete(model: Predictor, table: Table, names: Sequence[str]) -> Table:
    """Return a table with every column that a task needs. A key that all objects of a part lack is
    null in each."""
    import pyarrow as pa

    rows = table.rows
    for column in (each for name in names for each in input_columns(model.task_types[name])):
        if column not in rows.column_names:
            rows = rows.append_column(column, pa.nulls(len(rows), pa.string()))
    return replace(table, rows=rows)


def _of_passes(model: Predictor, encoded: Encoded, names: Sequence[str]) -> str:
    """Return a line that says which tasks share a pass of the trunk, and why others do not."""
    groups = [group for group in model.groups(encoded.features) if len(group) > 1]
    shared = "; ".join(f"{', '.join(group)} in one pass of the trunk" for group in groups)
    alone = [name for name in names if not any(name in group for group in groups)]
    if not alone:
        return shared
    trunk = model.model.trunk
    own = all(not trunk.same_for(alone[0], name) for name in names if name != alone[0])
    why = (
        f"sharing={model.config.sharing.name} gives each task states of its own"
        if own
        else "they read other tokens, or other states of them"
    )
    apart = f"a pass of their own for {', '.join(alone)}: {why}"
    return f"{shared}; {apart}" if shared else apart


def _lines(model: Predictor, table: Table, answers: dict[str, Answers], *, texts: bool) -> str:
    """Return a line of JSON for each row."""
    first = next(iter(answers))
    named = getattr(model.task_types[first].config.columns, "id", None)
    there = table.rows.column_names
    own = next((name for name in (*([named] if named else []), *ID_COLUMNS) if name in there), None)
    ids = None if own is None else table.column(own)
    columns = {
        name: table.column(name)
        for task in answers
        for name in input_columns(model.task_types[task])
        if texts and name in there
    }
    lines = []
    # Made once, for `json.dumps` makes an encoder for each call.
    as_json = json.JSONEncoder(default=str).encode
    for row in range(len(table)):
        line: dict[str, Any] = {"row": table.number(row)}
        if ids is not None:
            line["id"] = ids[row]
        if texts:
            line["texts"] = {name: values[row] for name, values in columns.items()}
        found = {name: _found(answer, row) for name, answer in answers.items()}
        line |= {"tasks": found} if len(found) > 1 else found[first] or {}
        lines.append(as_json(line) + "\n")
    return "".join(lines)


def _found(answer: Answers, row: int) -> Any:
    """Return the prediction for a row, or why the row cannot be read."""
    fault = answer.faults.get(row)
    return answer.predictions[row] if fault is None else {"error": f"{fault.where}: {fault.what}"}


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, which a thread makes one ahead. The thread does not keep the program from
    ending, for it may wait for a pipe."""
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)

    def make() -> None:
        try:
            for item in items:
                made.put((item, None))
            made.put((None, None))
        except BaseException as error:  # noqa: BLE001 (it is raised where the items are used)
            made.put((None, error))

    threading.Thread(target=make, daemon=True).start()
    while True:
        item, error = made.get()
        if error is not None:
            raise error
        if item is None:
            return
        yield item


@contextmanager
def written_whole(file: Path) -> Iterator[IO[str]]:
    """Return a stream into a file that has its name only once it is complete: a reader sees the old
    file or the new one. After a failure nothing of the new file is left."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with writing("the predictions", file, "then predict again"):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
            flush(file.parent)
        finally:
            temporary.unlink(missing_ok=True)
