"""csv tables in the run folder, for a spreadsheet: a row for each metrics row and each evaluation,
the final table, the config, and the paths of the files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtlcli.disk import append, write_whole
from mtlcli.trackers.base import About, Ending, Tracker

FOLDER = "csv"
"""The tracker's folder in the run folder."""


class CsvFiles(Tracker):
    """Writer of `RUN/csv/`."""

    takes_back = True

    def open(self, about: About, identity: str, step: int | None) -> str:
        """Make the folder, with the rows up to `step`, and write the config."""
        self._folder = about.folder / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._tables = {
            name: Table(self._folder / f"{name}.csv", up_to=step or 0)
            for name in ("metrics", "evaluations")
        }
        rows = ({"key": key, "value": value} for key, value in about.flat_config().items())
        write_table(self._folder / "config.csv", rows)
        return FOLDER

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Add a row to metrics.csv."""
        self._tables["metrics"].add(step, values)

    def scores(self, step: int, values: dict[str, float]) -> None:
        """Add a row to evaluations.csv."""
        self._tables["evaluations"].add(step, values)

    def finish(self, ending: Ending) -> None:
        """Write results.csv and files.csv."""
        write_table(self._folder / "results.csv", ending.table())
        rows = ({"name": name, "path": path} for name, path in ending.files.items())
        write_table(self._folder / "files.csv", rows)

    def advice(self) -> str:
        """Return the folder."""
        return str(self._folder)


class Table:
    """A csv file with a row for each step. A column that comes up later is empty in the rows
    before."""

    def __init__(self, file: Path, *, up_to: int) -> None:
        """Keep the rows of an existing file up to a step."""
        self._file = file
        self._columns = ["step"]
        rows: list[dict[str, Any]] = []
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            # A power cut can leave a part of the last line, whose step may be cut, too.
            reader = csv.DictReader(line for line in lines if line.endswith("\n"))
            rows = [row for row in reader if int(row["step"]) <= up_to]
            self._columns = list(reader.fieldnames or self._columns)
        write_whole(file, _text(self._columns, rows, header=True))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row."""
        new = [name for name in values if name not in self._columns]
        if new:
            with self._file.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            self._columns += new
            write_whole(self._file, _text(self._columns, rows, header=True))
        append(self._file, _text(self._columns, [{"step": step, **values}], header=False))


def write_table(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a csv file of rows that have the same columns."""
    held = list(rows)
    write_whole(file, _text(list(held[0]) if held else [], held, header=True))


def _text(columns: list[str], rows: Iterable[Mapping[str, Any]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
