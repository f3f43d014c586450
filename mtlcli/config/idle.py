"""Keys that have no effect beside the other values of a run. Typing one is refused, since the user
expects an effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from mtlcli.config import Config
from mtlcli.config.text import text_idle
from mtlcli.errors import Problem

ARCHITECTURE = (
    *("architecture", "layers", "hidden", "heads", "vocabulary", "initializer_range"),
    "scratch_lr",
)
"""Keys of `model` that build a model from scratch."""


def unheeded(config: Config, typed: list[str]) -> list[str]:
    """Return a line for each training key that the file of a task sets although the task is not
    trained, for rows that are kept out of training although nothing is chosen on them, and for a
    sharing strategy that has nothing to share in a run of one task.

    `typed`: dotted keys of the command line, which `idle` reports.
    """
    untrained = [
        f"note: tasks.{name}.{field.name} has no effect: the task is not trained (splits.train is "
        "null)"
        for name, task in config.tasks.items()
        for field in fields(task)
        if task.splits.train is None
        and field.name in task.only_trained
        and f"tasks.{name}.{field.name}" not in typed
        if getattr(task, field.name) != field.default
    ]
    kept_out = [
        f"note: tasks.{name}.splits.calibration only keeps rows out of training: the run chooses "
        "nothing on them"
        for name, task in config.tasks.items()
        if task.splits.calibration is not None and not task.calibrates
    ]
    owners = {
        task.head or name for name, task in config.tasks.items() if task.splits.train is not None
    }
    why = config.sharing.alone() if len(owners) == 1 else None
    alone = f"note: sharing={config.sharing.name} shares nothing in a run of one task: {why}"
    return [*untrained, *kept_out, *([] if why is None else [alone])]


def idle(config: Config, typed: list[str]) -> list[Problem]:
    """Return a problem for each typed key that has no effect in this run.

    `typed`: dotted keys of the command line.
    """
    return [
        Problem(f"has no effect: {why}", key, fix)
        for key, why, fix in _idle(config)
        if key in typed
    ]


def _idle(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield every key that has no effect, why, and what to do about it."""
    model, runner = config.model, config.runner
    out = "leave it out"
    if model.kind == "pretrained":
        for name in ARCHITECTURE:
            yield (
                f"model.{name}",
                "a pretrained model (model.kind=pretrained) has its own",
                f"{out}, or type model=tiny",
            )
    if model.kind == "scratch":
        yield (
            "model.name",
            "the model is built from scratch (model.kind=scratch)",
            f"{out}, or type model.kind=pretrained",
        )
        yield (
            "model.lr",
            "the model is built from scratch, with the learning rate model.scratch_lr",
            "type optim.lr",
        )
    if config.init.from_ is None:
        for name in ("heads", "layers"):
            yield f"init.{name}", "init.from is null", f"{out}, or add init.from=RUN"
    elif model.kind == "auto":
        for name in ("name", "pooling", *ARCHITECTURE):
            yield f"model.{name}", "the model comes with the weights of init.from", out
        yield "model.lr", "the run of init.from says what suits its model", "type optim.lr"
    if config.optim.lr is not None:
        for name in ("lr", "scratch_lr"):
            yield f"model.{name}", f"optim.lr={config.optim.lr:g} is set and takes precedence", out
        yield "optim.lr_factor", f"optim.lr={config.optim.lr:g} is set and takes precedence", out
    if config.optim.plateau is None:
        for name in ("plateau_gain", "plateau_factor", "plateau_floor", "plateau_tasks"):
            yield f"optim.{name}", "optim.plateau is null", f"{out}, or add optim.plateau=2"
    if runner.steps is not None:
        yield (
            "runner.epochs",
            f"runner.steps={runner.steps} is set and takes precedence",
            "leave it out, or add runner.steps=null",
        )
    if config.resume is None:
        yield "allow", "it only permits changes of a resumed run", f"{out}, or add resume=RUN"
    if config.data.source in ("hub", "local"):
        yield (
            "data.sample_seed",
            f"no rows come from the sample world (data.source={config.data.source})",
            out,
        )
    for name, task in config.formed_tasks.items():
        at = f"tasks.{name}"
        if task.head is not None:
            for key in ("head_layers", "dropout"):
                yield (
                    f"{at}.{key}",
                    f"the task uses the head of {task.head}",
                    f"give tasks.{task.head}.{key}",
                )
        if task.splits.train is None:
            for key in task.only_trained:
                yield f"{at}.{key}", "the task is not trained (splits.train is null)", out
        yield from task.idle(at)
    yield from config.sharing.idle()
    yield from text_idle(config)
