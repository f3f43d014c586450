"""Checks of a run as a whole: its length, its tasks, its optimiser and where its rows come from."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from mtlcli.config import Config, Logger, Model, Optim
from mtlcli.config.crosscheck.methods import method_problems
from mtlcli.config.crosscheck.shards import shard_problems
from mtlcli.config.crosscheck.versions import torch_before
from mtlcli.config.families import family_problems, known_family
from mtlcli.config.stages import stage_problems
from mtlcli.config.text import text_problems
from mtlcli.errors import Problem, count_of
from mtlcli.registry import suggest


def run_problems(config: Config, names: list[str]) -> Iterator[Problem]:
    """Check a run. `names`: its tasks, including those that were refused."""
    trained = [name for name, task in config.tasks.items() if task.splits.train is not None]
    yield from _trained(config, trained)
    yield from _length(config)
    yield from _taken_heads(config, names)
    yield from _optimizer(config.optim)
    yield from _data(config)
    yield from config.sweep.problems(names)
    yield from stage_problems(config.stages, config.tasks)
    yield from config.sharing.problems(config, names)
    yield from text_problems(config)
    yield from config.augmentation.problems(config)
    if (family := known_family(config.model)) is not None:
        yield from family_problems(config, family, "model.architecture")
    yield from _recomputed(config)
    yield from method_problems(config, trained)
    yield from _trackers(config.logger)
    if config.runner.engine == "fsdp":
        yield from shard_problems(config)
    if config.runner.compile == "on":
        yield from _compiled(config)
    yield from _network(config.model)


def _trained(config: Config, trained: list[str]) -> Iterator[Problem]:
    """Check that the run learns something."""
    if not trained:
        yield Problem(
            "no task of the run has a train split",
            "task",
            "add a task that is trained, for example mnli for ax",
        )
    elif all(config.tasks[name].weight == 0 for name in trained):
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


def _length(config: Config) -> Iterator[Problem]:
    """Check how long the run trains, and how often it evaluates."""
    runner, optim = config.runner, config.optim
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


def _taken_heads(config: Config, names: list[str]) -> Iterator[Problem]:
    """Check the tasks whose heads come from another run."""
    for name in config.init.heads or []:
        if name not in names:
            yield Problem(f"task '{name}' is not in the run", "init.heads", suggest(name, names))
        elif name in config.tasks and (owner := config.tasks[name].head) is not None:
            what = f"task '{name}' has no head of its own: it uses that of '{owner}'"
            yield Problem(what, "init.heads", f"name {owner} instead")


def _optimizer(optim: Optim) -> Iterator[Problem]:
    """Check the optimiser and the packages that it needs."""
    yield from optim.problems()
    missing = [package for package in optim.packages if find_spec(package) is None]
    if missing:
        what = (
            f"optim={optim.name} needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed"
        )
        yield Problem(what, "optim", f"type pip install 'mtlcli[{optim.name}]', or optim=adamw")
    if optim.name == "muon" and torch_before((2, 9)):
        yield Problem(
            "optim=muon needs torch 2.9 or later",
            "optim",
            "type pip install --upgrade torch, or optim=adamw",
        )


def _recomputed(config: Config) -> Iterator[Problem]:
    """Check that layers can be computed again."""
    if config.model.gradient_checkpointing and not config.sharing.recomputes:
        yield Problem(
            f"sharing={config.sharing.name} runs all copies of a layer at once, which cannot be "
            "computed again",
            "model.gradient_checkpointing",
            "leave it out, lower runner.batch_size, or raise runner.accumulation",
        )


def _network(model: Model) -> Iterator[Problem]:
    """Check what the backbone is made of."""
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


def _compiled(config: Config) -> Iterator[Problem]:
    """Check that torch can compile the layers."""
    key = "runner.compile"
    if config.runner.fast == "off":
        yield Problem("the plain path has no compiled layers", key, "take out runner.fast=off")
    if (why := config.sharing.uncompilable()) is not None:
        what = f"sharing={config.sharing.name} {why}"
        yield Problem(what, key, "type runner.compile=off, or leave it out")


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
