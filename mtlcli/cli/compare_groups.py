"""Groups of tasks, each with a run of its own (`mtl compare --groups K`): found by affinity, and
compared with random groups of the same sizes and with all tasks in one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mtlcli.cli.compare_plan import OF_METHODS, SINGLE, seeded
from mtlcli.cli.compare_tasks import trained_tasks
from mtlcli.cli.planned import Planned, Runs, is_of, place_in
from mtlcli.errors import Problem
from mtlcli.output import say
from mtlcli.pulse import Pulse
from mtlcli.report.comparison import Comparison, compare
from mtlcli.report.methods import Method
from mtlcli.report.words import closing
from mtlcli.screen import Column, FittingTable

PROBE = ["data.folds=5", "data.fold=0"]
"""What makes of the candidate the run whose gradients the surrogate reads: it learns from four
fifths of train, and is scored on the rest, so that no group is chosen on the rows that are
reported."""
DRAWS = 100
"""The number of draws after which random groups may be those that were found."""

Groups = list[list[str]]


@dataclass
class GroupPlan:
    """What `--groups` compares."""

    count: int
    """The number of groups."""
    baseline: list[Planned]
    """The runs of the single-task baseline; empty where finished runs are given."""
    joint: list[Planned]
    """The runs with all tasks."""
    probe: list[Planned]
    """The run from which affinities are estimated; empty where the joint runs measure them."""


def group_problems(joint: Sequence[Planned], count: int, by: str) -> list[Problem]:
    """Return what keeps the tasks of the joint runs from being cut into groups. `by`: `surrogate`
    or `lookahead`."""
    config, problems = joint[0].config, []
    most = len(trained_tasks(config)) - 1
    if not 2 <= count <= most:
        what = f"must be from 2 to {most}, fewer than the tasks, found {count}"
        problems.append(Problem(what, "--groups", "one group is the joint run itself"))
    problems += [
        Problem(
            "the task uses the head of another, so both need one group",
            f"tasks.{name}.head",
            "leave the task out, or compare without --groups",
        )
        for name, task in config.tasks.items()
        if task.head is not None
    ]
    if by == "surrogate" and config.data.folds is not None:
        what = "the surrogate cuts train into folds of its own, whose rows would be reported here"
        fix = "take it out, or type --affinity lookahead logger.affinity=N"
        problems.append(Problem(what, "data.folds", fix))
    if by == "lookahead" and config.logger.affinity is None:
        fix = "type logger.affinity=N, or --affinity surrogate"
        problems.append(Problem("lookahead is measured by the joint runs", "logger.affinity", fix))
    return problems


def plan_groups(planned: Sequence[Planned], count: int, by: str, runs: Runs) -> GroupPlan:
    """Return what is compared. `planned`: the runs of the baseline, if it is trained, and those
    with all tasks. Raises UserError with every mistake in the settings."""
    joint = [run for run in planned if not run.baseline]
    probe: list[Planned] = []
    if by == "surrogate":
        texts = [text for text in joint[0].unseeded if not is_of(text, ["logger.affinity"])]
        probe, _ = seeded("four fifths of train", [*texts, *PROBE], 1, runs.own)
        place_in(runs.folder, probe[0])
    return GroupPlan(count, [run for run in planned if run.baseline], joint, probe)


def compare_groups(groups: GroupPlan, baseline: Method | None, runs: Runs) -> Comparison:
    """Train what is missing, and return the groups, random groups and all tasks in one run beside
    the baseline; its notes have the groups beside each of the others. `baseline`: finished runs
    that are given."""
    joint = groups.joint
    runs.finish([*groups.baseline, *joint, *groups.probe])
    with Pulse():
        affinity = _affinity(groups)
    found = _grouping(affinity, groups.count, estimated=bool(groups.probe))
    _show(affinity, found)
    seeds = [run.seed for run in joint]
    chosen = _planned(joint, dict.fromkeys(seeds, found), runs)
    chance = _planned(joint, {seed: random_groups(found, seed) for seed in seeds}, runs)
    runs.finish([*chosen, *chance])
    if baseline is None:
        baseline = runs.method(groups.baseline[0].label, groups.baseline)
    methods = [
        runs.method("groups", chosen),
        runs.method("random groups", chance),
        runs.method("all in one", joint),
    ]
    comparison = compare(baseline, methods)
    text = " | ".join("+".join(group) for group in found)
    comparison.notes = [
        f"groups: {text}; random groups are drawn anew for each seed",
        *(closing(compare(other, methods[:1])) for other in methods[1:]),
        *comparison.notes,
    ]
    return comparison


def _affinity(groups: GroupPlan) -> dict[str, dict[str, float]]:
    from mtlcli.grouping.affinity import estimated, measured

    if groups.probe:
        return estimated(groups.probe[0].folder, say)
    return measured([run.folder for run in groups.joint])


def _grouping(affinity: dict[str, dict[str, float]], count: int, *, estimated: bool) -> Groups:
    """Return the best groups, by the value that goes with the affinity in its paper."""
    from mtlcli.training.analysis.partitions import density, grouping, mean_affinity

    return grouping(affinity, count, density if estimated else mean_affinity)


def _show(affinity: dict[str, dict[str, float]], groups: Groups) -> None:
    """Print the affinities, and the groups."""
    from mtlcli.screen import screen

    table = FittingTable(
        [Column("trained with", fold=24), *(Column(task, right=True) for task in affinity)],
        title="the share by which training with the task of the row lowers the loss of the column",
    )
    for one, row in affinity.items():
        table.add_row(one, *("" if one == to else f"{100 * row[to]:+.2f} %" for to in affinity))
    screen().print(table)
    print(f"groups: {' | '.join('+'.join(group) for group in groups)}\n", flush=True)


def random_groups(groups: Groups, seed: int) -> Groups:
    """Return a random partition with groups of the same sizes, other than `groups` where one is
    found in DRAWS draws."""
    tasks = sorted(task for group in groups for task in group)
    random = np.random.default_rng(seed)
    drawn = groups
    for _ in range(DRAWS):
        order = [tasks[place] for place in random.permutation(len(tasks))]
        drawn = [[order.pop() for _ in group] for group in groups]
        if {frozenset(group) for group in drawn} != {frozenset(group) for group in groups}:
            break
    return drawn


def _planned(joint: Sequence[Planned], groups: dict[int, Groups], runs: Runs) -> list[Planned]:
    """Return a run for each group of each seed. `groups`: by seed."""
    made: dict[str, list[Planned]] = {}
    found = []
    for run in joint:
        for group in groups[run.seed]:
            tasks = [task for task in run.config.tasks if task in group]
            label = "+".join(tasks)
            if label not in made:
                texts = list(_texts(run, tasks))
                made[label], _ = seeded(label, texts, len(joint), runs.own)
                for each in made[label]:
                    place_in(runs.folder, each)
            found.append(made[label][run.seed])
    return found


def _texts(run: Planned, tasks: Sequence[str]) -> Iterator[str]:
    """Yield the overrides of a run with some of the tasks of another. A task alone shares nothing,
    as in the baseline."""
    alone = len(tasks) == 1
    left = OF_METHODS if alone else ("logger.affinity",)
    yield from (text for text in run.unseeded if not is_of(text, left))
    if alone:
        yield from SINGLE
    yield from (f"~tasks.{name}" for name in run.config.tasks if name not in tasks)
