"""The runs of a command line with stages: which there are to be, with which overrides, where they
lie, and which have finished."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtlcli import commands
from mtlcli.cli.planned import Planned, composed, is_of, other_rows, place_in
from mtlcli.cli.preflight import Plan
from mtlcli.cli.train import suite_of
from mtlcli.cli.typed import key_in
from mtlcli.config import METHODS, Config, Stage
from mtlcli.config.init import other_model
from mtlcli.config.paths import conf_dir, typed_path
from mtlcli.config.section import replaced
from mtlcli.config.stages import OF_THE_WHOLE, subset, tasks_of
from mtlcli.errors import Problem, UserError

LENGTH = ("runner.steps", "runner.epochs")
RATE = ("optim.lr", "optim.lr_factor")
"""Keys of which one in `set` of a stage takes the place of its `length`, or of its `lr`."""


@dataclass
class StageRun(Planned):
    """A run of a stage."""

    stage: str = ""
    """The name of the stage."""
    method: str = ""
    """The name of what the run is compared as: runs of one name are those of several tasks."""
    last: bool = True
    """Whether no later run of the stage has the tasks of this one, too."""
    compared: bool = True
    """Whether it stands in the comparison."""
    in_order: bool = False
    """Whether it is one of the runs of a stage that learn tasks in order."""
    begins: StageRun | None = None
    """The run whose weights it begins with."""


def plan_stages(plan: Plan, typed: list[str], own: list[str]) -> tuple[Path, list[StageRun]]:
    """Return the folder of a command line with stages and its runs in the order in which they are
    carried out, all checked. Raises UserError for every mistake; nothing is started then.

    `typed`: the overrides of the command line; `own`: the folder behind `-cd`, as words.
    """
    config = plan.configs[0]
    seeds = [each.seed for each in plan.configs]
    runs, problems = _first_seed(
        config, [text for text in typed if not is_of(text, OF_THE_WHOLE)], own
    )
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    folder = folder_of(plan)
    planned: list[StageRun] = []
    for seed in seeds:
        made: dict[int, StageRun] = {}
        for run in runs:
            before = None if run.begins is None else made[id(run.begins)]
            made[id(run)] = _of_seed(run, seed, before, folder)
        planned += made.values()
    if problems := other_rows(planned, "one seed"):
        raise UserError(problems)
    return folder, planned


def folder_of(plan: Plan) -> Path:
    """Return the folder of all runs of a command line with stages."""
    config = plan.configs[0]
    if config.run_dir is not None:
        return typed_path(config.run_dir, "run_dir")
    assert plan.composed is not None, "a new run is composed"
    choices = plan.composed.hydra.runtime.choices
    suite = suite_of(config, choices.get("task"))
    return Path("recipes") / f"{choices.get('experiment') or 'stages'}_{suite}"


def _first_seed(
    config: Config, typed: list[str], own: list[str]
) -> tuple[list[StageRun], list[Problem]]:
    """Return the runs of one seed, composed, and the problems with them."""
    runs: list[StageRun] = []
    problems: list[Problem] = []
    for name, stage in config.stages.items():
        for tasks, label, method, last, begins in _parts(name, stage, config, runs):
            words = _words(stage, config, typed, tasks)
            run = StageRun(label, config.seed, Path(), words, config, stage=name, method=method)
            run.last, run.begins, run.compared = last, begins, stage.compared
            run.in_order = stage.runs == "in_order"
            try:
                # With resume=auto nothing is said about the run of init.from, which is not there
                # yet.
                place = ["run_dir=stage", "resume=auto"]
                place += [] if begins is None else ["init.from=stage"]
                run.config, _ = composed([*words, *place], own)
                run.config = replaced(run.config, {"run_dir": None, "resume": None})
            except UserError as error:
                problems += [_of_stage(problem, name, stage) for problem in error.problems]
            else:
                problems += [] if begins is None else _unlike(run, begins)
            runs.append(run)
    return runs, problems


def _parts(
    name: str, stage: Stage, config: Config, runs: list[StageRun]
) -> Iterator[tuple[list[str], str, str, bool, StageRun | None]]:
    """Yield for each run of a stage: its tasks, its label, what it is compared as, whether it is
    the last of its kind, and the run that it begins with."""
    own = tasks_of(stage, config.tasks)
    first = [run for run in runs if run.stage == stage.from_ and run.last]
    begins = first[0] if first else None
    if stage.runs == "each":
        for task in own:
            yield subset(config.tasks, [task]), f"{name} {task}", name, True, begins
    elif stage.runs == "in_order":
        known = [] if begins is None else list(begins.config.tasks)
        for number, task in enumerate(own, start=1):
            known = subset(config.tasks, [*known, task])
            yield known, f"{name} {number} {task}", name, number == len(own), begins
            begins = runs[-1]  # The run that was just given.
    elif len(first) > 1:
        for run in first:
            label = f"{name} {run.label.removeprefix(f'{run.stage} ')}"
            yield subset(config.tasks, own), label, label, True, run
    else:
        yield subset(config.tasks, own), name, name, True, begins


def _words(stage: Stage, config: Config, typed: list[str], tasks: list[str]) -> list[str]:
    """Return the overrides of a run of a stage, without where it begins."""
    given = _flat(stage.set)
    keys = [text.partition("=")[0] for text in given]
    groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    if stage.length != 1 and not any(key in LENGTH for key in keys):
        steps, epochs = config.runner.steps, config.runner.epochs
        if steps is not None:
            given.append(f"runner.steps={max(1, round(steps * stage.length))}")
        elif epochs is not None:
            given.append(f"runner.epochs={epochs * stage.length:.6g}")
    elif "runner.epochs" in keys and "runner.steps" not in keys:
        given.append("runner.steps=null")
    if stage.lr != 1 and not any(key in RATE for key in keys):
        if config.optim.lr is not None:
            given.append(f"optim.lr={config.optim.lr * stage.lr:.6g}")
        else:
            given.append(f"optim.lr_factor={config.optim.lr_factor * stage.lr:.6g}")
    # What is typed for the whole gives way to what the stage has.
    without = [text.partition("=")[0] for text in given]
    without += ["init.from"] if stage.from_ is not None else []
    chosen = [key for key in without if key in groups]
    gone = [f"tasks.{name}" for name in config.tasks if name not in tasks]
    kept = [text for text in typed if key_in(text) not in without and not is_of(text, chosen)]
    words = [text for text in [*kept, *given] if not is_of(text, gone)]
    return [*words, "~stages", *(f"~{each}" for each in gone)]


def _flat(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return nested values as overrides, the choices of groups first."""
    words: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            inner = dict(value)
            if not prefix and key in METHODS and "name" in inner:
                words.insert(0, f"{key}={inner.pop('name')}")
            words += _flat(inner, f"{prefix}{key}.")
        else:
            words.append(f"{prefix}{key}={_written(value)}")
    return words


def _written(value: Any) -> str:
    """Return a value as Hydra's grammar reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(each)}" for key, each in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return commands.hydra_value(value) if isinstance(value, str) else repr(value)


def _of_stage(problem: Problem, name: str, stage: Stage) -> Problem:
    """Return a problem of a run with the place in its stage."""
    section = re.split(r"[.=]", problem.where)[0]
    where = f"stages.{name}.set.{problem.where}" if section in stage.set else problem.where
    return replace(problem, where=where, what=f"stage {name}: {problem.what}")


def _unlike(run: StageRun, begins: StageRun) -> Iterator[Problem]:
    """Yield why a run cannot begin with the weights of another, as far as settings say."""
    at = f"stages.{run.stage}"
    if begins.config.model.kind != "auto":
        yield from (_in(at, problem) for problem in other_model(run.config, begins.config))
    if begins.config.sharing.name != "hard":
        from mtlcli.models.start import other_trunk, owners  # Their module imports torch.

        if (why := other_trunk(run.config, owners(run.config), begins.config)) is not None:
            yield Problem(f"cannot begin with {begins.label}: {why[0]}", at, why[1])


def _in(at: str, problem: Problem) -> Problem:
    return replace(problem, where=f"{at}: {problem.where}")


def _of_seed(run: StageRun, seed: int, begins: StageRun | None, folder: Path) -> StageRun:
    """Return a run with one of the seeds, its folder, and the folder of the run that it begins
    with."""
    words, values = [*run.overrides, f"seed={seed}"], dict[str, Any](seed=seed)
    if begins is not None:
        words.append(f"init.from={commands.hydra_value(begins.folder)}")
        values |= {"init.from": str(begins.folder)}
    found = replace(run, seed=seed, overrides=words, begins=begins)
    found.config = replaced(run.config, values)
    place_in(folder, found)
    return found
