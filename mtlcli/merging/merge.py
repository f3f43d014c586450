"""`mtl merge`: runs are opened, their backbones become one, and the result is written as a run
folder, which other verbs read as they read any other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from mtlcli.config import Config
from mtlcli.config.task import CALIBRATION
from mtlcli.distributed.process_group import connect
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.merging.base import BACKBONE, Copies, State
from mtlcli.merging.methods import METHODS, OPTIONS, Method, class_problems
from mtlcli.merging.rows import TrainRows
from mtlcli.merging.runs import Opened, common_start, initial_weights, merged_config, open_runs
from mtlcli.prepare.disk_space import check_writable
from mtlcli.prepare.prepare import calibration_splits, prepare
from mtlcli.pulse import doing
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.derived import write_derived
from mtlcli.tasks.base import TaskType

Options = dict[str, float | Literal["auto"]]
"""The options of a method; `auto` is chosen on rows that were kept out of training."""


@dataclass
class Merged:
    """What a merge has made."""

    results: dict[str, Any]
    """The content of results.json."""
    before: dict[str, float | None]
    """The main score of each task in its own run, from that run's results.json."""


def merge(
    paths: list[Path],
    to: Path,
    *,
    method: str,
    options: Options,
    command: list[str],
    say: Callable[[str], None],
) -> Merged:
    """Merge the best checkpoints of runs, or the checkpoints that are given, into the new run
    folder `to`.

    `options`: those of the method that are typed; the others have their defaults. `command`: the
    command line, for environment.json. Raises UserError with what keeps the runs from being merged;
    nothing is made then.
    """
    kind = METHODS[method]
    settings: Options = {**kind.options, **options}
    folder = RunFolder(to, "--to")
    check_writable(to, "--to")
    runs, lines = open_runs(paths)
    if len(runs) == 1:
        what = "the run has one backbone, and there is nothing to merge it with"
        fix = "give two runs or more, or a run with sharing=none and several tasks"
        raise UserError(what, str(runs[0].path), fix)
    config = merged_config(runs, to)
    chooses = [name for name, value in settings.items() if value == "auto"]
    _check_options(config, method, chooses)
    prepared = prepare(config, files=runs[0].files, splits=_splits(kind, choosing=bool(chooses)))
    base = initial_weights(runs, prepared.tasks) if kind.needs_base else None
    if base is None:
        lines += common_start(runs)
    for line in lines:
        say(line)
    with connect(config.runner) as ranks:
        rows = TrainRows(config, prepared, runs, ranks)
        copies = Copies([run.weights for run in runs], base, rows)
        weights, chosen = _merged(copies, rows, method, settings, say)
    for name, value in chosen.items():
        say(f"{name} {value:g} was chosen on rows that were kept out of training")
    record = _record(runs, method, {**settings, **chosen}, chosen)
    results = write_derived(
        folder,
        config,
        prepared,
        {name: tensor for run in runs for name, tensor in run.heads().items()}
        | {BACKBONE + name: tensor for name, tensor in (runs[0].backbone | weights).items()},
        command=command,
        record={"merged": record},
        log=f"merged by {method} from {', '.join(each['run'] for each in record['runs'])}",
        say=say,
    )
    return Merged(results, _before(runs))


def _check_options(config: Config, method: str, chooses: list[str]) -> None:
    """Raise UserError for a choice that has no rows to be made on, and for tasks that a method
    cannot merge."""
    problems = []
    if bare := [name for name, task in config.tasks.items() if task.splits.calibration is None]:
        problems += [
            Problem(
                f"there are no rows to choose on: {', '.join(bare)} kept none out of training",
                f"--{name} auto",
                f"give a number, or train with tasks.{bare[0]}.splits.calibration.fraction=0.1",
            )
            for name in chooses
        ]
    if problems := problems + class_problems(config.formed_tasks, method, f"--method {method}"):
        raise UserError(problems)


def _splits(kind: Method, *, choosing: bool) -> Callable[[TaskType[Any]], list[str]]:
    """Return what tells which splits of a task are read."""

    def splits(task: TaskType[Any]) -> list[str]:
        train = task.config.splits.train
        needed = [train] if kind.reads_rows and train else []
        held = [CALIBRATION] if choosing else calibration_splits(task)
        return [*needed, *task.config.splits.validation, *held]

    return splits


def _merged(
    copies: Copies, rows: TrainRows, method: str, settings: Options, say: Callable[[str], None]
) -> tuple[State, dict[str, float]]:
    """Return the merged weights, and the options that were chosen: the best of a grid by the
    average score on rows that were kept out of training."""
    carry_out: Callable[..., State] = import_module(f"mtlcli.merging.{method}").merge
    chooses = [name for name, value in settings.items() if value == "auto"]
    tried = []
    for values in itertools.product(*(OPTIONS[name].grid for name in chooses)):
        chosen = dict(zip(chooses, values, strict=True))
        named = " ".join(f"{name} {value:g}" for name, value in chosen.items())
        doing(f"merging {named}".rstrip())
        whole = {
            name: int(value) if OPTIONS[name].whole else value
            for name, value in (settings | chosen).items()
        }
        weights = carry_out(copies, **whole)
        if not chooses:
            return weights, {}
        score = rows.held_out_score(weights)
        say(f"{named}: average {score:.4f} on rows that were kept out of training")
        tried.append((score, weights, chosen))
    _, weights, chosen = max(tried, key=lambda each: each[0])
    return weights, chosen


def _record(
    runs: list[Opened], method: str, options: Options, chosen: dict[str, float]
) -> dict[str, Any]:
    """Return what environment.json says about the merge."""
    return {
        "method": method,
        "options": options,
        "chosen": dict.fromkeys(chosen, "rows kept out of training"),
        "runs": [run.record() for run in runs],
    }


def _before(runs: list[Opened]) -> dict[str, float | None]:
    """Return the main score of each task in its own run."""
    found: dict[str, float | None] = {}
    for run in runs:
        scores = run.found.checkpoint.state.get("best", {}).get("tasks", {})
        found |= {name: scores.get(name, {}).get("main") for name in run.config.tasks}
    return found


def describe(merged: Merged) -> list[str]:
    """Return a line for each task: its score in its own run, and merged."""
    lines = []
    for name, entry in merged.results["tasks"].items():
        own, now = merged.before.get(name), entry["main"]
        if own is not None and now is not None:
            lines.append(f"{name}: {own:.4f} in its own run, {now:.4f} merged")
    return lines or [count_of(len(merged.results["tasks"]), "task")]
