"""The teachers of a run (`augmentation=distill`): finished runs whose outputs for the train rows
are computed before anything is made, and kept in the run folder.

The run does not need its teachers any more once it has begun: no teacher is in memory in a step,
and a run that is resumed, or another rank, reads the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtlcli.commands import setting
from mtlcli.config import Config
from mtlcli.config.init import other_head
from mtlcli.config.paths import default_cache
from mtlcli.config.section import replaced
from mtlcli.config.task import named_columns
from mtlcli.data.features import TEACHER, Split
from mtlcli.data.table import Table
from mtlcli.disk import flush, sha256, writing
from mtlcli.errors import Problem, UserError
from mtlcli.prepare.prepare import Prepared, fit_tasks
from mtlcli.prepare.store import open_features
from mtlcli.registry import nearest
from mtlcli.rundir.folder import RunFolder
from mtlcli.runner.init import Source, opened
from mtlcli.tasks.base import build_tasks

if TYPE_CHECKING:
    from mtlcli.tasks.base import TaskType

FILE = "teachers.safetensors"
"""The file of a run folder with the outputs of its teachers: `outputs.TASK`, (rows, outputs) fp32,
and `rows.TASK`, the numbers of these train rows in their split, (rows,)."""
AT = "augmentation.teachers"


@dataclass
class Lessons:
    """What the teachers of a run say about its train rows."""

    outputs: dict[str, NDArray]
    """The content of FILE."""
    tasks: dict[str, dict[str, Any]]
    """The record of the teacher of each task."""

    def describe(self) -> str:
        """Return a line on who teaches what."""
        runs = dict.fromkeys(each["run"] for each in self.tasks.values())
        taught = {
            run: [name for name, each in self.tasks.items() if each["run"] == run] for run in runs
        }
        said = (f"{run} ({', '.join(names)})" for run, names in taught.items())
        return f"teachers  {'; '.join(said)}"

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write the outputs into a run folder; return the entry of environment.json."""
        from safetensors.numpy import save

        file = folder.path / FILE
        needed = sum(each.nbytes for each in self.outputs.values())
        with writing("the file", file, folder.resume_advice(), needed=needed):
            file.write_bytes(save(self.outputs))
            flush(file)
            flush(folder.path)
        return {"sha256": sha256(file), "tasks": self.tasks}


def open_teachers(config: Config) -> dict[str, Source]:
    """Open the teachers of a run, by the paths that its config has. Raises UserError when one
    cannot be used."""
    return {path: opened(Path(path), AT) for path in config.augmentation.other_runs()}


def teach(config: Config, teachers: dict[str, Source], prepared: Prepared) -> Lessons:
    """Return what the teachers say about the train rows, and how they score on the validation rows.
    Raises UserError when one does not fit the run, before any has said anything."""
    taught = _taught(config, prepared)
    if problems := list(_problems(taught, teachers)):
        raise UserError(problems)
    lessons = Lessons({}, {})
    for path in list(teachers):
        source = teachers.pop(path)  # Its weights are given back when it has taught.
        _ask(
            config,
            source,
            {n: t for n, t in taught.items() if n in source.config.tasks},
            prepared,
            lessons,
        )
        prepared.notices += source.lines
    return lessons


def give_lessons(config: Config, prepared: Prepared, folder: RunFolder) -> None:
    """Put what the teachers say about the train rows, which the run folder has, into the train
    features. Raises UserError when the file is not the one that the run has written, or the rows
    are others."""
    from safetensors.numpy import load_file

    file = folder.path / FILE
    fix = "bring the file back, or start the run again"
    if not file.is_file():
        raise UserError("the outputs of the teachers are missing", str(file), fix)
    if sha256(file) != folder.environment()["teachers"]["sha256"]:
        raise UserError("the outputs of the teachers have changed", str(file), fix)
    found = load_file(file)
    for name in _taught(config, prepared):
        split = prepared.tasks[name].config.splits.train
        assert split is not None
        if not np.array_equal(found[f"rows.{name}"], _numbers(prepared.tables[name][split])):
            what = f"the teacher of {name} was asked about other train rows than the run has now"
            raise UserError(what, str(file), "train on the rows that the run has begun with")
        features = prepared.features[name][split]
        column = found[f"outputs.{name}"][features.columns["row"]]
        prepared.features[name][split] = replace(
            features, columns=features.columns | {TEACHER: column}
        )


def compared(results: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Return the entry `teachers` of results.json: what each task's teacher is and scores, beside
    the score of the run, and the run's share of the teachers' average."""
    tasks = folder.environment()["teachers"]["tasks"]
    for name, each in tasks.items():
        each["student"] = results["tasks"].get(name, {}).get("main")
    pairs = [
        (each["score"], each["student"])
        for each in tasks.values()
        if None not in (each["score"], each["student"])
    ]
    before, after = (sum(scores) for scores in zip(*pairs, strict=True)) if pairs else (0, 0)
    return {"tasks": tasks, "share": after / before if before > 0 else None}


def report(results: dict[str, Any]) -> Iterator[str]:
    """Yield lines that compare a run with its teachers; none where it has none."""
    found = results.get("teachers")
    if found is None:
        return
    size = results["parameters"]["total"]
    for name, each in found["tasks"].items():
        scores = ["-" if each[key] is None else f"{each[key]:.4f}" for key in ("score", "student")]
        yield (
            f"teacher of {name}: {each['run']} ({each['parameters']:,} parameters) has "
            f"{each['metric']} {scores[0]}, this run ({size:,}) {scores[1]}"
        )
    if found["share"] is not None:
        yield f"this run has {found['share']:.1%} of the teachers' average"


def _numbers(table: Table) -> NDArray[np.int64]:
    """Return the numbers of the rows of a table in their split: (rows,)."""
    return np.arange(len(table)) if table.numbers is None else np.asarray(table.numbers, np.int64)


def _taught(config: Config, prepared: Prepared) -> dict[str, TaskType[Any]]:
    """Return the tasks that are trained with a teacher."""
    chosen = getattr(config.augmentation, "tasks", None)
    return {
        name: prepared.tasks[name]
        for name in prepared.train_features
        if chosen is None or name in chosen
    }


def _problems(taught: dict[str, TaskType[Any]], teachers: dict[str, Source]) -> Iterator[Problem]:
    """Yield what does not fit between the tasks of a run and its teachers."""
    for name, task in taught.items():
        found = [path for path, source in teachers.items() if name in source.config.tasks]
        if not found:
            others = [
                each for each in taught if any(each in t.config.tasks for t in teachers.values())
            ]
            known = {each for source in teachers.values() for each in source.config.tasks}
            close = nearest(name, known)
            what = f"no teacher has the task '{name}'" + (f"; one has '{close}'" if close else "")
            fix = "add a run that was trained on it" + (
                f", or name the others, {setting('augmentation.tasks', others)}" if others else ""
            )
            yield Problem(what, AT, fix)
        elif len(found) > 1:
            what = f"{' and '.join(found)} both have the task '{name}'"
            yield Problem(what, AT, "name one teacher for each task")
        else:
            mine, theirs = task.config, teachers[found[0]].config.formed_tasks[name]
            why = other_head(mine, theirs)
            columns = _columns(mine), _columns(theirs)
            if why is None and columns[0] != columns[1]:
                why = f"it reads {columns[1]} there and {columns[0]} here"
            if why is not None:
                fix = (
                    f"train the teacher on the same task, or take {name} out of augmentation.tasks"
                )
                yield Problem(f"{found[0]} cannot teach {name}: {why}", AT, fix)
    for path, source in teachers.items():
        if not set(source.config.tasks) & set(taught):
            what = f"{path} teaches nothing: it has the tasks {', '.join(source.config.tasks)}"
            yield Problem(what, AT, "leave it out")


def _columns(task: Any) -> str:
    """Return the columns that a task reads, as `text=sentence, label=label`."""
    return ", ".join(f"{key}={column}" for key, column in named_columns(task.columns))


def _ask(
    config: Config,
    source: Source,
    taught: dict[str, TaskType[Any]],
    prepared: Prepared,
    lessons: Lessons,
) -> None:
    """Add to the lessons what one teacher says."""
    from mtlcli.distributed.process_group import Ranks, set_up
    from mtlcli.evaluation.evaluate import outputs_of, score
    from mtlcli.evaluation.saved_model import restore

    # The teacher goes through as the run does, but for what its own model may not allow.
    packing: Literal["auto", "off"] = "off" if config.runner.packing == "off" else "auto"
    runner = replace(config.runner, devices=1, engine="ddp", packing=packing)
    if source.files.int8:
        runner = replace(runner, precision=source.config.runner.precision)
    theirs = replaced(
        source.config,
        {"runner": runner}
        | {f"tasks.{name}.metrics": task.config.metrics for name, task in taught.items()},
    )
    tasks = build_tasks(theirs.formed_tasks, theirs.text)
    for task in tasks.values():
        task.prepare(None)
    encoder = fit_tasks(theirs, tasks, source.files)
    ranks = Ranks(0, 1, set_up(runner))
    saved = restore(
        theirs, source.found, tasks, source.files, encoder, ranks=ranks, say=source.lines.append
    )
    cache = Path(config.data.cache_dir) if config.data.cache_dir else default_cache()
    size = saved.model.parameter_counts()["total"]

    def outputs(name: str, split: str) -> tuple[dict[str, NDArray], Split]:
        table = prepared.tables[name][split]
        features = open_features(table, tasks[name], encoder, cache)
        found = outputs_of(
            saved.model,
            name,
            features,
            batch_size=runner.eval_batch_size,
            input_format=saved.input_format,
            bf16=saved.precision == "bf16",
            ranks=ranks,
            what=f"asking the teacher of {name} about {split}",
        )
        return found, Split(table, features)

    for name, task in taught.items():
        assert task.config.splits.train is not None
        found, part = outputs(name, task.config.splits.train)
        logits = found["logits"]
        if not np.isfinite(logits).all():
            what = f"the teacher's outputs for {name} are not finite"
            raise UserError(what, f"{AT} ({source.found.checkpoint.folder})", "give another run")
        by_row = np.empty_like(logits)
        by_row[part.features.columns["row"]] = logits
        lessons.outputs[f"outputs.{name}"] = by_row
        lessons.outputs[f"rows.{name}"] = _numbers(part.table)
        metrics: dict[str, float] = {}
        if task.config.splits.validation:
            metrics = score(tasks[name], *outputs(name, task.config.splits.validation[0])).metrics
        metric = next(iter(metrics), None)
        lessons.tasks[name] = source.found.record() | {
            "parameters": size,
            "metric": metric,
            "score": None if metric is None else metrics[metric],
        }
