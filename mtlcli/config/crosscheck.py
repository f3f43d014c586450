"""Checks of values that are each valid but do not fit together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mtlcli.commands import setting
from mtlcli.config import Config, Logger, Task, weightings
from mtlcli.config.families import family_problems, known_family
from mtlcli.config.formats import FORMATS, ending
from mtlcli.config.schema import value_at
from mtlcli.config.stages import stage_problems
from mtlcli.config.task import named_columns
from mtlcli.config.text import text_problems
from mtlcli.config.weighting import Needs
from mtlcli.errors import Problem, count_of
from mtlcli.metrics import OUTSIDE, entry, metric_names, suggest_metric
from mtlcli.registry import suggest


def crosscheck(config: Config, values: dict[str, Any]) -> list[Problem]:
    """Return the problems of a config whose single values are all valid.

    `values`: the plain values, including tasks that were refused.
    """
    named = values.get("tasks")
    names = list(named) if isinstance(named, dict) else list(config.tasks)
    problems = [
        problem
        for name, task in config.formed_tasks.items()
        for problem in _task(name, task, config, names, values)
    ]
    return problems + list(_run(config, names))


def _task(
    name: str, task: Task, config: Config, names: list[str], values: dict[str, Any]
) -> Iterator[Problem]:
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


def _run(config: Config, names: list[str]) -> Iterator[Problem]:
    runner, optim, model = config.runner, config.optim, config.model
    trained = [task for task in config.tasks.values() if task.splits.train is not None]
    if not trained:
        yield Problem(
            "no task of the run has a train split",
            "task",
            "add a task that is trained, for example mnli for ax",
        )
    elif all(task.weight == 0 for task in trained):
        yield Problem(
            "every task has weight 0: nothing would be learned",
            "tasks",
            "give one of them a weight above 0",
        )
    if config.data.shots is not None and config.data.max_train_rows is not None:
        yield Problem(
            "data.max_train_rows draws from the rows of train, too",
            "data.shots",
            "give one of them",
        )
    if runner.steps is None and runner.epochs is None:
        yield Problem(
            "runner.steps and runner.epochs are both null", "runner.steps", "give one of them"
        )
    if runner.eval_every is not None and runner.eval_share is not None:
        yield Problem(
            "this value and runner.eval_every both say how often to evaluate",
            "runner.eval_share",
            "leave one of them out",
        )
    if runner.steps is not None and optim.warmup >= max(1, runner.steps):
        yield Problem(
            f"the warm-up takes {optim.warmup:g} of {count_of(runner.steps, 'step')}: no step has "
            "the full learning rate",
            "optim.warmup",
            "lower it, or give a share below 1",
        )
    for name in config.init.heads or []:
        if name not in names:
            yield Problem(f"task '{name}' is not in the run", "init.heads", suggest(name, names))
        elif name in config.tasks and (owner := config.tasks[name].head) is not None:
            what = f"task '{name}' has no head of its own: it uses that of '{owner}'"
            yield Problem(what, "init.heads", f"name {owner} instead")
    yield from optim.problems()
    missing = [package for package in optim.packages if find_spec(package) is None]
    if missing:
        what = (
            f"optim={optim.name} needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed"
        )
        yield Problem(what, "optim", f"type pip install 'mtlcli[{optim.name}]', or optim=adamw")
    if optim.name == "muon" and _torch_before((2, 9)):
        yield Problem(
            "optim=muon needs torch 2.9 or later",
            "optim",
            "type pip install --upgrade torch, or optim=adamw",
        )
    yield from _data(config)
    yield from config.sweep.problems(names)
    yield from stage_problems(config.stages, config.tasks)
    yield from config.sharing.problems(config, names)
    yield from text_problems(config)
    yield from config.augmentation.problems(config)
    if (family := known_family(model)) is not None:
        yield from family_problems(config, family, "model.architecture")
    if model.gradient_checkpointing and not config.sharing.recomputes:
        yield Problem(
            f"sharing={config.sharing.name} runs all copies of a layer at once, which cannot be "
            "computed again",
            "model.gradient_checkpointing",
            "leave it out, lower runner.batch_size, or raise runner.accumulation",
        )
    names_trained = [name for name, task in config.tasks.items() if task.splits.train is not None]
    yield from _weighting(config, names_trained)
    yield from _sampling(config, names_trained)
    yield from _plateau(config, names_trained)
    if runner.engine == "fsdp":
        yield from _shards(config)
    if model.kind == "pretrained" and model.name is None:
        yield Problem(
            "must be given with model.kind=pretrained",
            "model.name",
            "a name on the hub, or a folder",
        )
    if model.kind != "pretrained" and model.hidden % model.heads:
        yield Problem(
            f"model.hidden={model.hidden} is not a multiple of {model.heads}",
            "model.heads",
            "change one of them",
        )


def _shards(config: Config) -> Iterator[Problem]:
    """Check what cannot work where each device holds a shard of every parameter."""
    at, whole = "runner.engine", "type runner.engine=ddp"
    if not weightings.implementation(config.weighting.name).needs_one_gradient():
        yield Problem(
            f"fsdp adds the gradients of all tasks up while they are computed, and "
            f"weighting={config.weighting.name} needs the step's losses or gradients for its "
            "weights",
            at,
            f"{whole}, or a weighting that knows its weights before the step, for example "
            "weighting=static",
        )
    if config.sampling.needs_gradients:
        yield Problem(
            f"fsdp does not keep gradients for the measurements of sampling={config.sampling.name}",
            at,
            f"{whole}, or another sampling",
        )
    if (why := config.sharing.unshardable()) is not None:
        yield Problem(
            f"fsdp cuts parameters into shards, and sharing={config.sharing.name} {why}", at, whole
        )
    if not config.optim.shardable:
        yield Problem(
            f"fsdp cuts parameters into shards, and optim={config.optim.name} needs whole ones",
            at,
            f"{whole}, or optim=adamw",
        )
    for key in ("probe", "affinity"):
        if getattr(config.logger, key) is not None:
            yield Problem(
                "fsdp does not keep the gradients of the tasks apart",
                f"logger.{key}",
                f"leave it out, or {whole}",
            )
    if config.runner.packing == "on":
        yield Problem(
            "fsdp takes one task after the other, in padded batches",
            "runner.packing",
            f"leave it out, or {whole}",
        )
    if config.runner.max_tokens == "auto":
        yield Problem(
            "fsdp has no measurement of what fits into memory",
            "runner.max_tokens",
            "type a number, or null",
        )
    if _torch_before((2, 13)):
        yield Problem(
            "fsdp needs torch 2.13 or later", at, f"type pip install --upgrade torch, or {whole}"
        )


def _torch_before(version: tuple[int, int]) -> bool:
    """Return whether the installed torch is older than `version`, without importing it."""
    return tuple(int(part) for part in metadata.version("torch").split(".")[:2]) < version


def _weighting(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check what the weighting needs from the rest of the run."""
    weighting, sampling = config.weighting, config.sampling
    needs: Needs = weighting.needs
    at = f"weighting={weighting.name}"
    if needs.several_tasks and len(trained) < 2:
        yield Problem(
            f"{at} compares tasks, but the run trains only one",
            "weighting",
            "type weighting=static, or train several tasks",
        )
    elif needs.several_tasks and not sampling.all_tasks:
        yield Problem(
            f"{at} compares the tasks of a step, and sampling={sampling.name} puts one task into "
            "each",
            "sampling",
            "type sampling=all",
        )
    if needs.shared_parameters and not config.sharing.shares:
        yield Problem(
            f"{at} compares the gradients of shared parameters, and sharing={config.sharing.name} "
            "has none",
            "sharing",
            f"{_sharing(config)}, or weighting=static",
        )
    if needs.shared_parameters and config.optim.unfreeze_every is not None:
        yield Problem(
            f"{at} compares the gradients of shared parameters, and gradual unfreezing begins "
            "without any",
            "optim.unfreeze_every",
            "leave it out, or choose another weighting",
        )
    if needs.validation:
        for name in trained:
            if not config.tasks[name].splits.validation:
                yield Problem(
                    f"{at} learns from validation losses, and the task has no split to validate on",
                    f"tasks.{name}.splits.validation",
                    "name one, or choose another weighting",
                )
    if needs.unit_importance:
        for name in trained:
            if config.tasks[name].weight not in (0, 1):
                yield Problem(
                    f"the value has no effect: {at} does not change when a task's loss is "
                    "multiplied by a number",
                    f"tasks.{name}.weight",
                    "leave it out, choose another weighting, or type 0, which leaves the task out "
                    "of the balance",
                )
    missing = [package for package in needs.packages if find_spec(package) is None]
    if missing:
        yield Problem(
            f"{at} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed",
            "weighting",
            f"type pip install 'mtlcli[{needs.extra}]'",
        )
    yield from weighting.problems(trained)
    logger = config.logger
    if logger.probe is not None and not (
        sampling.all_tasks and config.sharing.shares and len(trained) > 1
    ):
        yield Problem(
            "the probe compares the gradients that the tasks of a step leave in shared parameters, "
            "and this run has none to compare",
            "logger.probe",
            "leave it out, or type sampling=all and a sharing other than none, with several tasks",
        )
    if logger.affinity is not None and not (config.sharing.shares and len(trained) > 1):
        yield Problem(
            "affinity is what a step on one task does to others through shared parameters, and "
            "this run has none",
            "logger.affinity",
            "leave it out, or share parameters between several tasks",
        )
    yield from _trackers(logger)


def _trackers(logger: Logger) -> Iterator[Problem]:
    """Check that the trackers of a run are installed, and named once."""
    key = "logger.trackers"
    for name in dict.fromkeys(logger.trackers):
        if logger.trackers.count(name) > 1:
            yield Problem(f"{name} is named twice", key, "name it once")
        if name != "csv" and find_spec(name) is None:
            yield Problem(
                f"{name} is not installed",
                key,
                f"type pip install 'mtlcli[{name}]', or take {name} out",
            )
    if logger.project is not None and not {"wandb", "mlflow"} & set(logger.trackers):
        yield Problem(
            "the value has no effect: neither wandb nor mlflow tracks the run",
            "logger.project",
            "take it out, or add one of them to logger.trackers",
        )


def _sharing(config: Config) -> str:
    """Return what to type so that tasks have parameters in common."""
    ways = [f"give {way}"] if (way := config.sharing.to_share) else []
    return ", or ".join([*ways, "type sharing=hard"])


def _sampling(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check what the sampling needs from the rest of the run."""
    sampling = config.sampling
    yield from sampling.problems(trained)
    learns = sampling.needs_scores or sampling.needs_gradients
    stages = config.sharing.stages_of({name: config.tasks[name].head or name for name in trained})
    if learns and trained and all(len(stage) < 2 for stage in stages):
        yield Problem(
            f"sampling={sampling.name} learns which task to draw, and the run trains only one"
            + (" in each stage" if len(stages) > 1 else ""),
            "sampling",
            "put several tasks into a stage (sharing.stages), or type sampling=proportional"
            if len(stages) > 1
            else "type sampling=proportional, or train several tasks",
        )
    if sampling.needs_scores:
        for name in trained:
            if not config.tasks[name].splits.validation:
                yield Problem(
                    f"sampling={sampling.name} learns from validation scores, and the task has no "
                    "split to validate on",
                    f"tasks.{name}.splits.validation",
                    "name one, or choose another sampling",
                )

    if sampling.needs_gradients and not config.sharing.shares:
        yield Problem(
            f"sampling={sampling.name} learns from the gradients of shared parameters, and "
            f"sharing={config.sharing.name} has none",
            "sharing",
            f"{_sharing(config)}, or choose another sampling",
        )


def _plateau(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check the tasks whose learning rates shall follow their progress."""
    optim = config.optim
    if optim.plateau is None:
        return
    for name in optim.plateau_tasks or []:
        if name not in trained:
            yield Problem(
                f"the run does not train a task '{name}'",
                "optim.plateau_tasks",
                suggest(name, trained),
            )
    for name in trained:
        watched = optim.plateau_tasks is None or name in optim.plateau_tasks
        if watched and not config.tasks[name].splits.validation:
            yield Problem(
                f"{name} has no split to validate on, and optim.plateau follows validation scores",
                "optim.plateau_tasks",
                "name the other tasks, or leave optim.plateau out",
            )


def _data(config: Config) -> Iterator[Problem]:
    """Check for values of the data section that are missing or have no effect."""
    data = config.data
    if data.folds is None and data.fold is not None:
        yield Problem("the value has no effect without folds", "data.fold", "type data.folds=5")
    elif data.folds is not None and (data.fold is None or data.fold >= data.folds):
        what = "which fold is scored?" if data.fold is None else "there is no such fold"
        numbers = ",".join(map(str, range(data.folds)))
        fix = f"type data.fold=0, up to {data.folds - 1}; for all of them: -m data.fold={numbers}"
        yield Problem(what, "data.fold", fix)
    sources = {
        name: task.source for name, task in config.tasks.items() if task.source.files is None
    }
    kinds = {name: source.kind or data.source for name, source in sources.items()}
    local = [name for name, kind in kinds.items() if kind == "local"]
    if data.root is None and local:
        yield Problem(
            "must be given with data.source=local"
            if data.source == "local"
            else f"must be given for {', '.join(local)}",
            "data.root",
            "give the folder that holds <task path>/<split>.parquet, csv, ...",
        )
    if data.root is not None and not {"local", "auto"} & set(kinds.values()):
        why = (
            f"rows come from data.source={data.source}"
            if sources
            else "every task names files of its own"
        )
        yield Problem(
            f"the value has no effect: {why}", "data.root", "take it out, or type data.source=local"
        )
    if data.sample_seed and not {"sample", "auto"} & set(kinds.values()):
        yield Problem(
            "the value has no effect: no task takes rows from the sample world",
            "data.sample_seed",
            "take it out",
        )
    reads_files = len(sources) < len(config.tasks) or {"local", "auto"} & set(kinds.values())
    if data.rows != "auto" and not reads_files:
        yield Problem(
            "the value has no effect: no task takes rows from files", "data.rows", "take it out"
        )
