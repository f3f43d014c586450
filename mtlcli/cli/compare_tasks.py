"""Comparisons between sets of tasks: the joint run against joint runs without one task each (`mtl
compare --leave-one-out`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mtlcli.cli.compare_plan import seeded
from mtlcli.cli.planned import Planned, folder_of, state_of
from mtlcli.config import Config
from mtlcli.config.sharing import Staging
from mtlcli.errors import Problem, UserError

WITHOUT = "without "
"""The beginning of the label of runs without a task."""


def equal_data_problems(config: Config, option: str) -> list[Problem]:
    """Return what keeps runs on some of the tasks from training each of them as much as the run on
    all tasks does."""
    problems = []
    if not config.sampling.all_tasks:
        what = f"sampling={config.sampling.name} puts one task into a step"
        fix = f"type sampling=all: with it, a run on fewer tasks trains each as much ({option})"
        problems.append(Problem(what, "sampling", fix))
    if config.runner.steps is None:
        what = "the length of an epoch depends on which tasks there are"
        problems.append(Problem(what, "runner.steps", f"type runner.steps=N ({option})"))
    if isinstance(config.sharing, Staging):
        what = f"sharing={config.sharing.name} has stages, and trains tasks one after another"
        problems.append(Problem(what, "sharing", f"choose another one ({option})"))
    return problems


def without_each(joint: Sequence[Planned], place: Path, own: list[str]) -> list[Planned]:
    """Return the runs of all seeds without one task each, for every task that is trained. `joint`:
    the runs of all tasks, by seed. `place`: the folder of the comparison. Raises UserError with
    every mistake, such as a setting that names the task that is left out."""
    first = joint[0]
    trained = [name for name, task in first.config.tasks.items() if task.splits.train is not None]
    if len(trained) < 3:
        what = f"{len(trained)} of its tasks are trained, and leaving one out takes three or more"
        raise UserError(what, "--leave-one-out", "type more tasks: 'task=[A,B,C]'")
    planned: list[Planned] = []
    problems: list[Problem] = []
    for name in trained:
        # A task that uses the head of another goes with it.
        gone = [name, *(each for each, task in first.config.tasks.items() if task.head == name)]
        try:
            planned += cut(joint, gone, f"{WITHOUT}{name}", own)
        except UserError as error:
            problems += error.problems
    for run in planned:
        run.folder = folder_of(run, place)
        problems += state_of(run)
    if problems:
        raise UserError(problems)
    return planned


def cut(
    joint: Sequence[Planned], gone: Collection[str], label: str, own: list[str]
) -> list[Planned]:
    """Return the runs of all seeds without some tasks."""
    # The last override is that of the seed.
    texts = [*joint[0].overrides[:-1], *(f"~tasks.{name}" for name in gone)]
    runs, _ = seeded(label, texts, len(joint), own)
    return runs
