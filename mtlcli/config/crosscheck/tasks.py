"""Checks of a task: what it needs from its own keys, from other tasks and from the run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mtlcli.commands import setting
from mtlcli.config import Config, Task
from mtlcli.config.formats import FORMATS, ending
from mtlcli.config.schema import value_at
from mtlcli.config.task import named_columns
from mtlcli.errors import Problem, count_of
from mtlcli.metrics import OUTSIDE, entry, metric_names, suggest_metric
from mtlcli.registry import suggest


def task_problems(
    name: str, task: Task, config: Config, names: list[str], values: dict[str, Any]
) -> Iterator[Problem]:
    """Check a task. `names`: the tasks of the run, including those that were refused. `values`: the
    plain values of the run."""
    at = f"tasks.{name}"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        what = "a task's name begins with a letter and is made of letters, digits, - and _"
        yield Problem(what, at, "choose another name in its header: # @package tasks.NAME")
    yield from _source(at, task, config, value_at(["tasks", name, "source", "files"], values) or {})
    yield from _held_out(at, task)
    yield from _columns(at, task)
    yield from _head(at, name, task, config, names)
    kind = task.type
    yield from _metrics(at, kind, task.metrics)
    size = task.batch_size or config.runner.batch_size
    inner = config.weighting.inner_batches
    shares = config.runner.devices * config.runner.accumulation * inner
    if size < shares and task.splits.train is not None:
        key = f"{at}.batch_size" if task.batch_size else "runner.batch_size"
        yield Problem(
            f"{count_of(size, 'example')} cannot be cut into {shares} parts"
            f" (runner.devices={config.runner.devices} x "
            f"runner.accumulation={config.runner.accumulation}"
            + (f" x {inner} for weighting.inner_steps)" if inner > 1 else ")"),
            key,
            f"type {key}={shares} or more",
        )
    length = task.max_length or config.data.max_length
    key = f"{at}.max_length" if task.max_length else "data.max_length"
    if isinstance(config.runner.max_tokens, int) and config.runner.max_tokens < length:
        yield Problem(
            f"{config.runner.max_tokens} tokens have no room for one input of {key}={length}",
            "runner.max_tokens",
            f"type runner.max_tokens={length} or more, or lower {key}",
        )
    yield from task.problems(at, length, key)
    if config.data.shots is not None and task.splits.train is not None:
        yield from _shots(name, task)
    yield from _augment(at, task, config)


def _shots(name: str, task: Task) -> Iterator[Problem]:
    """Check that rows can be drawn by the classes of a task."""
    why = "has no classes" if task.class_column is None else None
    if why is None and task.together is not None:
        why = "has rows that belong together"
    if why is not None:
        what = f"task {name} (type: {task.type}) {why}, so no rows can be drawn for each class"
        yield Problem(what, "data.shots", "type data.max_train_rows=N, or leave the task out")


def _augment(at: str, task: Task, config: Config) -> Iterator[Problem]:
    """Check the changes of the words of a task's training texts."""
    augment = task.augment
    if augment is None or task.splits.train is None:
        return
    at = f"{at}.augment"
    if task.fixed_words is not None:
        yield Problem(
            f"the words of a task of type {task.type} cannot be changed: {task.fixed_words}",
            at,
            "take it out",
        )
    elif task.form == "text":
        what = "the words of a prompt cannot be changed: the answer is one of them (form=text)"
        yield Problem(what, at, "take it out, or type form=head")
    elif not augment.rates:
        yield Problem(
            "no word is changed: all rates are 0",
            at,
            f"take it out, or give word_dropout, swap, delete or insert: {at}.swap=0.1",
        )
    elif augment.insert and config.runner.max_tokens is not None:
        yield Problem(
            "words are put into texts after the tokens of a step have been counted for "
            "runner.max_tokens",
            f"{at}.insert",
            "take one of the two out",
        )


def _metrics(at: str, kind: str, metrics: list[str]) -> Iterator[Problem]:
    known = [metric for metric in metrics if metric in metric_names(kind)]
    for metric in metrics:
        if metric not in known and not metric.startswith(OUTSIDE):
            known_elsewhere = metric in metric_names()
            what = (
                f"'{metric}' does not score a {kind} task"
                if known_elsewhere
                else f"unknown metric '{metric}'"
            )
            yield Problem(
                what, f"{at}.metrics", suggest_metric("" if known_elsewhere else metric, kind)
            )
    for metric in {metric: None for metric in metrics if metrics.count(metric) > 1}:
        yield Problem(f"'{metric}' is listed twice", f"{at}.metrics", "name every metric once")
    first = metrics[0] if metrics else None
    if first in known and entry(first).rises:
        return
    if first in known or (first and first.startswith(OUTSIDE)):
        falls = (
            "falls as predictions get better"
            if first in known
            else "may rise or fall as predictions get better"
        )
        best = next((metric for metric in [*known, *metric_names(kind)] if entry(metric).rises), "")
        example = ", ".join(dict.fromkeys([best, *metrics]))
        what = (
            f"'{first}' {falls}; the first metric must rise: it chooses the best checkpoint and "
            "is averaged over tasks"
        )
        yield Problem(what, f"{at}.metrics", f"put another one first, for example [{example}]")


def untyped_code(config: Config, typed: Iterable[str]) -> list[Problem]:
    """Return a problem for each metric whose code would run without being named on the command
    line. A task file from somebody else must not be able to start code.

    `typed`: the arguments of the command line.
    """
    words = list(typed)
    return [
        Problem(
            f"'{metric}' runs the code of that metric, so a file alone cannot ask for it",
            f"tasks.{name}.metrics",
            f"if you trust it, type {setting(f'tasks.{name}.metrics', task.metrics)}",
        )
        for name, task in config.tasks.items()
        for metric in task.metrics
        if metric.startswith(OUTSIDE) and not any(metric in word for word in words)
    ]


def _source(at: str, task: Task, config: Config, given: dict[str, Any]) -> Iterator[Problem]:
    """Check where the rows of a task come from.

    `given`: the files of the task before validation, including refused ones.
    """
    source, chosen = task.source, task.source.kind or config.data.source
    says = f"{at}.source.kind={source.kind}" if source.kind else f"data.source={chosen}"
    if source.files is not None:
        # The first split of validation is made of rows of train.
        held = task.splits.hold_out is not None or config.data.folds is not None
        used = {
            "splits.train": [task.splits.train] if task.splits.train else [],
            "splits.validation": task.splits.validation[held:],
        }
        for key, splits in used.items():
            for split in splits:
                if split not in source.files and split not in given:
                    fix = suggest(split, source.files)
                    if key == "splits.validation" and list(source.files) == [task.splits.train]:
                        fix += f"; or keep rows of train: {at}.splits.hold_out.fraction=0.1"
                    yield Problem(f"source.files has no split '{split}'", f"{at}.{key}", fix)
        named = [] if source.header is None else source.files.values()
        for file in named:
            kind = ending(Path(file)).partition(".")[0]
            if kind in FORMATS and kind not in ("csv", "tsv"):
                yield Problem(
                    f"names of columns have no effect on '{file}': a .{kind} file has its own",
                    f"{at}.source.header",
                    "take it out",
                )
        if source.kind not in (None, "local"):
            yield Problem(
                "the value has no effect beside source.files, which the rows come from: "
                f"{source.kind}",
                f"{at}.source.kind",
                "take one out",
            )
    elif source.path is None and source.hub is None:
        yield Problem(
            "the task does not say where its rows come from",
            f"{at}.source",
            "give files, hub or path",
        )
    elif chosen == "hub" and source.hub is None:
        yield Problem(
            f"must be given with {says}",
            f"{at}.source.hub",
            "the data set's name on the hub, or another source",
        )
    elif chosen in ("local", "sample") and source.path is None:
        yield Problem(
            f"must be given with {says}",
            f"{at}.source.path",
            "the folder below data.root, or another source",
        )


def _held_out(at: str, task: Task) -> Iterator[Problem]:
    """Check that rows can be kept out of the train split."""
    splits, where = task.splits, f"{at}.splits.hold_out"
    if splits.hold_out is not None and not splits.validation:
        fix = f"type '{at}.splits.validation=[validation]', or take it out"
        yield Problem("the rows that are kept have no name", where, fix)
    for key, name, _ in splits.kept_out():
        where = f"{at}.splits.{key}"
        if splits.train is None:
            yield Problem("the task has no train split to keep rows of", where, "take it out")
        elif name == splits.train or name in (task.source.files or {}):
            yield splits.occupied(at, key, name)


def _columns(at: str, task: Task) -> Iterator[Problem]:
    """Check that no column has two roles. With a text as its own label, for example, training would
    seem to succeed."""
    parts: dict[str, str] = {}
    for key, column in named_columns(task.columns):  # type: ignore[attr-defined]
        if column in parts:
            what = f"column '{column}' is used twice: as {parts[column]} and as {key}"
            yield Problem(
                what,
                f"{at}.columns.{key}",
                f"name another column here, or in {at}.columns.{parts[column]}",
            )
        else:
            parts[column] = key


def _head(at: str, name: str, task: Task, config: Config, names: list[str]) -> Iterator[Problem]:
    if task.head is None:
        return
    if task.head == name or task.head not in names:
        others = [other for other in names if other != name]
        what = (
            "a task cannot use its own head by name"
            if task.head == name
            else f"task '{task.head}' is not in the run"
        )
        yield Problem(
            what,
            f"{at}.head",
            (suggest(task.head, others) if others else "")
            or "add the task to the run, or set it to null",
        )
        return
    other = config.tasks.get(task.head)
    if other is None:
        return
    if other.head is not None:
        yield Problem(
            f"task '{task.head}' has no head of its own", f"{at}.head", f"head: {other.head}"
        )
    if type(other) is not type(task):
        kinds = [each.type for each in (task, other)]
        yield Problem(
            f"a {kinds[0]} task cannot use the head of the {kinds[1]} task '{task.head}'",
            f"{at}.head",
            "name a task of the same type, or null",
        )
    else:
        yield from task.head_problems(at, other)
