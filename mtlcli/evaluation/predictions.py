"""The files that an evaluation writes: whether they can be written, and the predictions, a line for
each table row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtlcli.config import Config
from mtlcli.config.formats import files_of
from mtlcli.data.table import ID_COLUMNS, Table
from mtlcli.disk import obstacle, write_whole, writing
from mtlcli.errors import Problem, UserError
from mtlcli.tasks.base import TaskType

if TYPE_CHECKING:
    from mtlcli.evaluation.evaluate import Scores


def check_places(
    config: Config,
    run: Path,
    parts: dict[str, list[str]],
    scores_file: Path | None,
    predictions: Path | None,
) -> None:
    """Raise UserError when a file that an evaluation is to write cannot be written, holds table
    rows that the run reads, or belongs to the run.

    `scores_file`: the file of the scores; `predictions`: the folder of the predictions.
    """
    files = {} if scores_file is None else {f"--json {scores_file}": scores_file}
    if predictions is not None:
        _check_files(predictions, parts)
        stems = [stem for name, splits in parts.items() for stem in _stems(name, splits)]
        files |= {
            f"--predictions {predictions} ({stem}{end})": predictions / f"{stem}{end}"
            for stem in stems
            for end in (".jsonl", ".json")
        }
    check_overwrites(config, run, files)


def write_predictions(
    folder: Path,
    tasks: Mapping[str, TaskType[Any]],
    tables: Mapping[str, Mapping[str, Table]],
    scores: dict[str, dict[str, Scores]],
    *,
    texts: bool = False,
    official: bool = False,
    then: str,
) -> None:
    """Write one file for each split: `<task>.jsonl` for the first split of a task,
    `<task>.<split>.jsonl` for further ones.

    `tables`: the table rows by task and split. `texts`: add the texts of the rows. `official`: also
    write the files that official scripts read. `then`: what the user does when the disk has failed
    and is mended.
    """
    with writing("the predictions", folder, then):
        folder.mkdir(parents=True, exist_ok=True)
        for name, by_split in scores.items():
            task = tasks[name]
            for stem, (split, result) in zip(_stems(name, by_split), by_split.items(), strict=True):
                rows = describe_rows(task, tables[name][split], texts=texts)
                lines = "".join(
                    json.dumps(row | prediction) + "\n"
                    for row, prediction in zip(rows, result.predictions, strict=True)
                )
                write_whole(folder / f"{stem}.jsonl", lines)
                files = task.official_files(result.predictions) if official else {}
                for suffix, content in files.items():
                    write_whole(folder / f"{stem}{suffix}", json.dumps(content))


def describe_rows(task: TaskType[Any], table: Table, *, texts: bool) -> list[dict[str, Any]]:
    """Return {"row", "id", "file", "words", "cluster", "texts", "gold"} for each row.

    `row`: the number of the row in the split, from 1. `id`: the value of the id column (text or
    numbers), if the table has one. `file`: the file of the row, if the split was read from several.
    `words`: the number of words in the inputs. `cluster`: a number that rows share that are no
    independent draws (`TaskType.clusters`), if there are such. `texts`: column -> text, if `texts`
    is true. `gold`: the label in the form of a prediction; None where the row has no label.
    """
    there = table.rows.column_names
    rows: list[dict[str, Any]] = [{"row": table.number(row)} for row in range(len(table))]
    named = getattr(task.config.columns, "id", None)
    column = next((name for name in ([named] if named else ID_COLUMNS) if name in there), None)
    if column is not None:
        for row, value in zip(rows, table.column(column), strict=True):
            row["id"] = value
    for number, row in enumerate(rows if table.files is not None else []):
        row["file"] = table.file(number)
    columns = [name for name in task.required_columns(labelled=False) if name != named]
    for row, *values in zip(rows, *map(table.column, columns), strict=True):
        row["words"] = sum(map(_words, values))
        if texts:
            row["texts"] = dict(zip(columns, values, strict=True))
    numbers: dict[Any, int] = {}
    for row, cluster in zip(rows, task.clusters(table) or [], strict=False):
        row["cluster"] = numbers.setdefault(cluster, len(numbers))
    for row, gold in zip(rows, task.gold(table), strict=True):
        row["gold"] = gold
    return rows


def _words(value: Any) -> int:
    """Return the number of words in a text, or in a list of texts; 0 for another value."""
    if isinstance(value, list):
        return sum(map(_words, value))
    return len(value.split()) if isinstance(value, str) else 0


def _stems(task: str, splits: Iterable[str]) -> list[str]:
    """Return the names, without endings, of the files of a task's predictions."""
    return [task if index == 0 else f"{task}.{split}" for index, split in enumerate(splits)]


def _check_files(folder: Path, parts: dict[str, list[str]]) -> None:
    """Check that all files of predictions can be written. Raises UserError for those that
    cannot."""
    files = [
        folder / f"{stem}.jsonl" for name, splits in parts.items() for stem in _stems(name, splits)
    ]
    problems = [
        Problem(
            f"the folder cannot be written: {why}", f"--predictions {folder}", "give another folder"
        )
        for file in files
        if (why := obstacle(file, folder=False))
    ]
    if problems:
        raise UserError(problems)


def check_overwrites(config: Config, run: Path, files: dict[str, Path]) -> None:
    """Raise UserError when a file that is to be written holds table rows that the run reads, or
    belongs to the run.

    `files`: the file of each option, by the option as it was typed.
    """
    own = run.resolve()
    root = None if config.data.root is None else Path(config.data.root).resolve()
    read = {
        path.resolve()
        for task in config.tasks.values()
        for file in (task.source.files or {}).values()
        for path in files_of(file)
    }
    problems = []
    for option, file in files.items():
        place = file.resolve()
        if place in read or (root is not None and place.is_relative_to(root) and place.exists()):
            problems.append(
                Problem(
                    f"the run's rows would be overwritten: {file}", option, "give another place"
                )
            )
        elif (place.parent == own and place.exists()) or any(
            place.is_relative_to(own / part) for part in ("checkpoints", "backbone")
        ):
            problems.append(
                Problem(
                    f"a file of the run would be overwritten: {file}", option, "give another place"
                )
            )
    if problems:
        raise UserError(problems)
