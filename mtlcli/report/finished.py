"""A finished run as its folder tells it: settings, results, and the predictions of its best
checkpoint, from which its scores are computed again. This module imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlcli import commands
from mtlcli.config import Config
from mtlcli.config.snapshot import load_config
from mtlcli.errors import Problem, UserError
from mtlcli.metrics import OUTSIDE, compute, entry
from mtlcli.tasks.base import TaskType, build_tasks

PREDICTIONS = "predictions"
"""The folder of a run with the predictions of its best checkpoint."""
CLASSES = ("accuracy", "precision", "recall", "f1")
"""What is reported of every task with one class per row, beside its own metrics."""
ROUNDING = 1e-9
"""The largest difference between a score and the same computed again, relative to 1 or more."""


@dataclass
class Predictions:
    """The predictions of a task's first split."""

    file: Path
    rows: list[dict[str, Any]]
    """The lines of the rows that have a label."""
    references: list[Any]
    """The labels in the form that metrics take."""
    units: NDArray[np.int64]
    """The number of the unit of each row: rows that are no independent draws share one."""

    @property
    def identity(self) -> list[tuple[Any, Any, Any]]:
        """What has to be equal where two runs are compared: number, id and label of each row."""
        return [(row["row"], row.get("id"), row["gold"]) for row in self.rows]


@dataclass
class Finished:
    """A run with results."""

    path: Path
    config: Config
    results: dict[str, Any]
    environment: dict[str, Any]
    status: str
    tasks: dict[str, TaskType[Any]]
    """The tasks that have a score."""
    _predictions: dict[str, Predictions] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.config.seed

    @property
    def made(self) -> dict[str, Any] | None:
        """How the model was made out of other runs', `merged` or `compressed`, by which method and
        with which options; None for a model that was trained."""
        for how in ("merged", "compressed"):
            if (record := self.environment.get(how)) is not None:
                auto = dict.fromkeys(record.get("chosen", ()), "auto")
                return {"how": how, "method": record["method"], **record["options"], **auto}
        return None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line that a kill has cut short is left out. Empty where
        there is no such file, as for a model that was not trained."""
        file = self.path / "metrics.jsonl"
        return _metrics_rows(file)

    @property
    def examples(self) -> dict[str, int]:
        """The number of examples of each task that the run was trained on, whole run; empty without
        metrics.jsonl."""
        return _examples(self.metrics)

    @cached_property
    def examples_before(self) -> dict[str, int]:
        """The number of examples of each task that the runs were trained on with whose weights this
        one has begun (`init.from`), as far as their folders are there."""
        found: dict[str, int] = {}
        record = self.environment.get("init")
        while record is not None:
            run = Path(record["run"])
            step = int(record["checkpoint"].removeprefix("step_"))
            rows = [row for row in _metrics_rows(run / "metrics.jsonl") if row["step"] <= step]
            for name, count in _examples(rows).items():
                found[name] = found.get(name, 0) + count
            there = run / "environment.json"
            record = _read_json(there, "").get("init") if there.is_file() else None
        return found

    @property
    def seconds(self) -> float | None:
        """The time of the steps in seconds; None without metrics.jsonl."""
        return self.metrics[-1]["seconds"] if self.metrics else None

    def main(self, task: str) -> tuple[str, str]:
        """Return the main metric of a task, and the key of its score."""
        return self.tasks[task].metrics[0], self.results["tasks"][task]["main_metric"]

    def shown(self, task: str) -> list[tuple[str, str]]:
        """Return the metrics of a task that are shown beside the main one, each with its key:
        accuracy, precision, recall and F1 where a row has one class."""
        own = [(name, key) for name, key in self._keys(task) if key != self.main(task)[1]]
        if not self.tasks[task].classes or self.config.tasks[task].type not in (
            "classification",
            "relation",
        ):
            return own
        known = {key for _, key in own} | {self.main(task)[1]}
        return own + [(name, name) for name in CLASSES if name not in known]

    def _keys(self, task: str) -> Iterator[tuple[str, str]]:
        """Yield the metrics of a task, each with the keys that can be resampled."""
        for name in self.tasks[task].metrics:
            if name.startswith(OUTSIDE):
                found = self.results["tasks"][task]["metrics"]
                keys = [key for key in found if key.partition(".")[0] == name]
            else:
                keys = [key for key in entry(name).keys if not key.startswith("best_")]
            yield from ((name, key) for key in keys)

    def inputs(self, task: str, metric: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the arguments of `metrics.compute` other than the references."""
        found = self.tasks[task].metric_inputs(metric, rows)
        if metric == "group_exact_match":
            found["groups"] = [row["cluster"] for row in rows]
        return found

    def predictions(self, task: str) -> Predictions:
        """Return the predictions of a task's first split. Raises UserError where there are none, or
        where they do not have the scores of results.json."""
        if task not in self._predictions:
            file = self.path / PREDICTIONS / f"{task}.jsonl"
            rows = self._read(file)
            references = self.tasks[task].references_of(rows)
            self._check(task, file, rows, references)
            of = [row.get("cluster", number) for number, row in enumerate(rows)]
            _, units = np.unique(of, return_inverse=True)
            self._predictions[task] = Predictions(file, rows, references, units.astype(np.int64))
        return self._predictions[task]

    def _read(self, file: Path) -> list[dict[str, Any]]:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
            rows = [row for row in map(json.loads, lines) if row["gold"] is not None]
        except OSError as error:
            what = f"the predictions cannot be read: {error.strerror}"
            raise UserError(what, str(file), self._fix) from error
        except (ValueError, KeyError, TypeError) as error:
            what = "the file holds a line that is no prediction"
            raise UserError(what, str(file), self._fix) from error
        if not rows:
            raise UserError("no row has a label", str(file), self._fix)
        return rows

    @property
    def _fix(self) -> str:
        limit = self.config.data.max_eval_rows
        more = "" if limit is None else f" data.max_eval_rows={limit}"
        to = commands.typed(self.path / PREDICTIONS)
        command = f"{commands.evaluate(self.path)} --predictions {to}{more}"
        return f"let the best checkpoint write them again: {command}"

    def _check(self, task: str, file: Path, rows: list[dict[str, Any]], gold: list[Any]) -> None:
        """Raise UserError unless the scores of results.json follow from the predictions."""
        score = self.results["tasks"][task]
        said = score["metrics"]
        for metric in self.tasks[task].metrics:
            try:
                found = compute(metric, references=gold, **self.inputs(task, metric, rows))
            except (ValueError, KeyError, TypeError) as error:
                what = f"{metric} cannot be computed from the predictions: {error}"
                raise UserError(what, str(file), self._fix) from error
            for key, value in found.items():
                stated = [said[key]] if said.get(key) is not None else []
                stated += [score["main"]] if key == score["main_metric"] else []
                for number in stated:
                    if not math.isclose(value, number, rel_tol=ROUNDING, abs_tol=ROUNDING):
                        what = (
                            f"the predictions have {key} {value:.6g}, and results.json says "
                            f"{number:.6g}: they are not of the same checkpoint, or not all there"
                        )
                        raise UserError(what, str(file), self._fix)


def _metrics_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; a last line that a kill has cut short is left out. Empty
    where there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        for row in rows:
            row["tasks"], row["seconds"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "the file cannot be read, or holds a line that is no row of a training"
        fix = "move the file away: the report then has no curves and times of this run"
        raise UserError(what, str(file), fix) from error
    return rows


def _examples(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return the number of examples of each task in rows of metrics.jsonl."""
    found: dict[str, int] = {}
    for row in rows:
        for name, task in row["tasks"].items():
            found[name] = found.get(name, 0) + task["examples"]
    return found


def rises(metric: str) -> bool:
    """Return whether higher scores of a metric are better; so it is taken of metrics of the package
    `evaluate`, which do not say."""
    return metric.startswith(OUTSIDE) or entry(metric).rises


def read_run(path: Path) -> Finished:
    """Read a run folder. Raises UserError when it has no results, or files that cannot be read."""
    config = load_config(path / "config.yaml")
    fix = (
        f"give the folder of its run: {path.parent.parent}"
        if path.parent.name == "checkpoints"
        else f"let the run write it: {commands.resume(path)}"
    )
    results = _read_json(path / "results.json", fix)
    try:
        scored = {
            name: score
            for name, score in results["tasks"].items()
            if name in config.tasks and score.get("main") is not None
        }
        for score in scored.values():
            score["main_metric"]
            if not all(isinstance(number, (int, float)) for number in _numbers(score)):
                raise TypeError
        if not all(isinstance(results.get(part, {}), dict) for part in ("parameters", "cost")):
            raise TypeError
    except (KeyError, TypeError, AttributeError) as error:
        what = "the file does not hold the results of a run"
        raise UserError(what, str(path / "results.json"), fix) from error
    if not scored:
        raise UserError(
            "no task has a score", str(path / "results.json"), "give a run with labelled rows"
        )
    tasks = build_tasks(config.tasks, config.text)
    for name, score in scored.items():
        if "calibrated" in score:
            tasks[name].use_calibration(score["calibrated"])
    status = path / "status.json"
    return Finished(
        path,
        config,
        results,
        _read_json(path / "environment.json", "give a run folder that is complete"),
        _read_json(status, "")["status"] if status.exists() else "finished",
        {name: tasks[name] for name in scored},
    )


def _numbers(score: dict[str, Any]) -> list[Any]:
    """Return what has to be numbers in a task's part of results.json."""
    return [score["main"], *(value for value in score["metrics"].values() if value is not None)]


def _read_json(file: Path, fix: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", str(file), fix) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"the file cannot be read: {error}", str(file), fix) from error
    if not isinstance(found, dict):
        raise UserError("the file cannot be read: it holds no object", str(file), fix)
    return found


def check_comparable(runs: list[Finished], tasks: list[str]) -> None:
    """Raise UserError unless all runs were scored on the same rows of each of these tasks, by the
    same metric."""
    problems = []
    for task in tasks:
        having = [run for run in runs if task in run.tasks]
        first = having[0]
        for run in having[1:]:
            if run.main(task) != first.main(task):
                what = (
                    f"task {task}: the main metric is {run.main(task)[1]} here, and "
                    f"{first.main(task)[1]} in {first.path}"
                )
                problems.append(Problem(what, str(run.path), "compare runs with the same metric"))
            elif run.predictions(task).identity != first.predictions(task).identity:
                limits = [each.config.data.max_eval_rows for each in (run, first)]
                here, there = ("null" if limit is None else limit for limit in limits)
                fix = (
                    f"data.max_eval_rows is {here} here and {there} there: train one of them again "
                    "with the value of the other"
                    if here != there
                    else "compare runs on the same data"
                    if limits[0] is None or run.seed == first.seed
                    else "data.max_eval_rows draws rows by the seed: leave it out, or compare one "
                    "seed"
                )
                what = f"task {task}: the validation rows are not those of {first.path}"
                problems.append(Problem(what, str(run.predictions(task).file), fix))
    if problems:
        raise UserError(problems)
