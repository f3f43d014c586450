"""Comparisons between sets of tasks at equal data for each task: the joint run against joint runs
without one task each (`mtl compare --leave-one-out`), and what groups of tasks
(`compare_groups.py`) have in common with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from mtlcli.cli.compare_plan import seeded
from mtlcli.cli.planned import Planned, Runs, place_in
from mtlcli.config import Config
from mtlcli.config.sharing import Staging
from mtlcli.errors import Problem, UserError
from mtlcli.report.comparison import Comparison, compare

FEWEST = 3
"""The smallest number of tasks of which some can be left out."""


def trained_tasks(config: Config) -> list[str]:
    """Return the tasks that a run trains; others are only scored."""
    return [name for name, task in config.tasks.items() if task.splits.train is not None]


def joint_problems(joint: Sequence[Planned], option: str) -> list[Problem]:
    """Return what keeps runs on some tasks from being compared with the joint runs: one candidate
    of three or more tasks is needed, that trains each task as much with and without the others.
    `joint`: the candidates' runs. `option`: what asks for the comparison."""
    config, problems = joint[0].config, []
    if len({run.label for run in joint}) > 1:
        what = "one candidate is compared with parts of itself, and several are typed"
        problems.append(Problem(what, option, "give every key one value"))
    if (count := len(trained_tasks(config))) < FEWEST:
        what = f"expected three or more tasks that are trained, found {count}"
        problems.append(Problem(what, option, "type more tasks: 'task=[A,B,C]'"))
    if not config.sampling.all_tasks:
        what = f"sampling={config.sampling.name} puts one task into a step"
        fix = f"type sampling=all: with it, runs on fewer tasks train each as much ({option})"
        problems.append(Problem(what, "sampling", fix))
    if config.runner.steps is None:
        what = "the length of an epoch depends on which tasks there are"
        problems.append(Problem(what, "runner.steps", f"type runner.steps=N ({option})"))
    if isinstance(config.sharing, Staging):
        what = f"sharing={config.sharing.name} has stages, and trains tasks one after another"
        problems.append(Problem(what, "sharing", f"choose another one ({option})"))
    return problems


def without_each(
    joint: Sequence[Planned], place: Path, own: list[str]
) -> tuple[dict[str, list[Planned]], list[Problem]]:
    """Return the runs of all seeds without one task each, by the task, and every problem, such as a
    setting that names a task that is left out. `joint`: the runs of all tasks, by seed. `place`:
    the folder of the comparison."""
    first, found = joint[0], {}
    problems: list[Problem] = []
    for name in trained_tasks(first.config):
        # A task that uses the head of another goes with it.
        gone = [name, *(each for each, task in first.config.tasks.items() if task.head == name)]
        try:
            found[name] = cut(joint, gone, f"without {name}", place, own)
        except UserError as error:
            problems += error.problems
    return found, problems


def cut(
    joint: Sequence[Planned], gone: Collection[str], label: str, place: Path, own: list[str]
) -> list[Planned]:
    """Return the runs of all seeds without some tasks, placed. Raises UserError with every
    mistake in the settings."""
    texts = [*joint[0].unseeded, *(f"~tasks.{name}" for name in gone)]
    planned, _ = seeded(label, texts, len(joint), own)
    for run in planned:
        place_in(place, run)
    return planned


def leave_one_out(
    joint: Sequence[Planned], without: dict[str, list[Planned]], runs: Runs
) -> Comparison:
    """Train what is missing, and return what each task brings to the others."""
    runs.finish([*joint, *(run for each in without.values() for run in each)])
    methods = {name: runs.method(planned[0].label, planned) for name, planned in without.items()}
    return compare(
        runs.method(joint[0].label, joint),
        list(methods.values()),
        {method.label: name for name, method in methods.items()},
    )
