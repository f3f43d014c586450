"""The splits of each task that an evaluation reads, and the settings that do nothing for them."""

from __future__ import annotations

from collections.abc import Callable

from mtlcli.config import Config, Task
from mtlcli.config.section import replaced
from mtlcli.config.text import text_idle
from mtlcli.data.source import open_source
from mtlcli.errors import Problem, UserError
from mtlcli.registry import suggest


def choose_splits(
    config: Config, wanted: str, chosen: list[str] | None, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Return the splits to evaluate, by task: for the `chosen` tasks, or for all tasks that have
    the split; then `say` names the tasks without it.

    Raises UserError when a chosen task does not exist or has no such split, or no task has it.
    """
    for name in chosen or []:
        if name not in config.tasks:
            raise UserError(
                f"the run has no task '{name}'", where="--task", fix=suggest(name, config.tasks)
            )
    names = chosen or list(config.tasks)
    source = open_source(config.data, {name: config.tasks[name] for name in names}, config.seed)
    parts: dict[str, list[str]] = {}
    without: list[Problem] = []
    for name in names:
        there = source.splits(name)
        asked = _splits(config.tasks[name], wanted, there)
        # Where a task has no split at all, reading its data reports the reason.
        missing = [split for split in asked if there and split not in there]
        if asked and not missing:
            parts[name] = asked
            if wanted == "test" and (
                others := [
                    split for split in there if split.startswith("test") and split not in asked
                ]
            ):
                say(
                    f"{name}: --split test is {', '.join(asked)}; for the other "
                    f"{'one' if len(others) == 1 else 'ones'} type "
                    + " or ".join(f"--split {other}" for other in others)
                )
            continue
        what = f"task {name}: there is no split '{(missing or [wanted])[0]}'"
        without.append(
            Problem(
                what, "--split", suggest(wanted, there) if there else f"set tasks.{name}.splits"
            )
        )
    if without and (chosen or not parts):
        raise UserError(without)
    if without:
        say(
            f"no split '{wanted}', left out: "
            f"{', '.join(name for name in names if name not in parts)}"
        )
    return parts


def _splits(task: Task, wanted: str, there: list[str]) -> list[str]:
    """Return the names of the splits of a task that `wanted` means: a part that the task's config
    defines, or the name of one split."""
    splits = task.splits
    defined: dict[str, list[str | None]] = {
        "validation": [*splits.validation],
        "test": [splits.test],
        "train": [splits.train],
    }
    names = [name for name in defined.get(wanted, []) if name]
    # A file or folder may hold a split that training does not use and the config does not name.
    return names or ([wanted] if wanted in there else [])


def idle_overrides(
    config: Config, wanted: str, parts: dict[str, list[str]], overrides: list[str]
) -> list[Problem]:
    """Return problems with overrides of tasks that this evaluation does not read, and with those
    that concern another form of tasks than the run's."""
    keys = [override.partition("=")[0] for override in overrides]
    problems = [
        Problem(f"the value has no effect: {why}", key, "take it out")
        for key, why, _ in text_idle(config)
        if key in keys
    ]
    for key in keys:
        name, _, rest = key.removeprefix("tasks.").partition(".")
        if not key.startswith("tasks."):
            continue
        source = config.tasks[name].source
        kind = "files" if source.files is not None else source.kind or config.data.source
        why = {
            f"task {name} is not evaluated": name not in parts,
            f"--split {wanted} does not read it": rest.startswith("splits.")
            and rest != f"splits.{wanted}",
            "rows come from source.files": kind == "files"
            and rest.removeprefix("source.") in ("path", "hub", "hub_config"),
            f"rows come from {kind}": kind in ("local", "sample")
            and rest in ("source.hub", "source.hub_config"),
            "rows come from hub": kind == "hub" and rest == "source.path",
        }
        problems += [
            Problem(f"the value has no effect: {reason}", key, "take it out")
            for reason, holds in why.items()
            if holds
        ][:1]
    return problems


def lift_limits(
    config: Config,
    parts: dict[str, list[str]],
    overrides: list[str],
    say: Callable[[str], None],
    *,
    every_row: bool,
) -> Config:
    """Return the config of an evaluation without the limits of table rows that were meant for
    training, unless training evaluated the same splits and `every_row` is false.

    Raises UserError for a limit among the overrides that concerns none of the splits.
    """
    whole = every_row or any(
        set(names) - set(_trained(config.tasks[name])) for name, names in parts.items()
    )
    trains = {
        config.tasks[name].splits.train == each for name, names in parts.items() for each in names
    }
    for key, used in (
        ("max_train_rows", True in trains),
        ("shots", True in trains),
        ("max_eval_rows", False in trains),
    ):
        limit = getattr(config.data, key)
        typed = any(override.startswith(f"data.{key}=") for override in overrides)
        if typed and not used:
            raise UserError(
                f"the value has no effect on {', '.join(sum(parts.values(), []))}",
                f"data.{key}",
                "take it out",
            )
        if whole and used and limit is not None and not typed:
            config = replaced(config, {f"data.{key}": None})
            say(
                f"every row is evaluated: data.{key}={limit} was meant for training (type it again "
                "to keep it)"
            )
    for name, names in parts.items():
        key, limit = f"tasks.{name}.max_train_rows", config.tasks[name].max_train_rows
        if limit is None or any(override.startswith(f"{key}=") for override in overrides):
            continue
        if whole and config.tasks[name].splits.train in names:
            config = replaced(config, {key: None})
            say(f"every row is evaluated: {key}={limit} was meant for training")
    return config


def _trained(task: Task) -> list[str]:
    """Return the splits that training reads."""
    return [*([task.splits.train] if task.splits.train else []), *task.splits.validation]
