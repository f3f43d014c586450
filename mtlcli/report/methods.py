"""Methods: runs that belong together, as seeds of the same settings, or as runs that share the
tasks out among them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtlcli.config.changes import settings
from mtlcli.errors import Problem, UserError
from mtlcli.report.finished import Finished

SECTIONS = ("sharing", "weighting", "sampling", "augmentation", "optim", "model")
"""The sections whose names tell methods apart, in the order in which a label names them."""


@dataclass
class Method:
    """Runs that differ by their seeds alone; or several for each seed, each of other tasks."""

    label: str
    runs: dict[int, list[Finished]]
    """The runs by seed; every seed has every task once."""

    @property
    def tasks(self) -> list[str]:
        """The tasks that every seed has scores of."""
        first, *others = [
            [task for run in runs for task in run.tasks] for runs in self.runs.values()
        ]
        return [task for task in first if all(task in each for each in others)]

    def of(self, task: str) -> list[Finished]:
        """Return the runs with a task, one for each seed."""
        return [run for runs in self.runs.values() for run in runs if task in run.tasks]

    @property
    def first(self) -> list[Finished]:
        """The runs of the first seed."""
        return next(iter(self.runs.values()))

    @property
    def all(self) -> list[Finished]:
        """All runs."""
        return [run for runs in self.runs.values() for run in runs]


def methods_of(runs: Sequence[Finished]) -> list[Method]:
    """Return the methods that some runs are of: runs whose settings differ by the seed alone are
    seeds of one method, as are models that were merged or compressed alike. Runs with the same
    settings and seed are methods of their own."""
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        what = repr((run.made, sorted(settings(run.config).items())))
        groups.setdefault(what, []).append(run)
    parts: list[list[Finished]] = []
    for group in groups.values():
        twice = len({run.seed for run in group}) < len(group)
        parts += [[run] for run in group] if twice else [group]
    labels = _labels([part[0] for part in parts])
    return [
        Method(label, {run.seed: [run] for run in sorted(part, key=lambda run: run.seed)})
        for label, part in zip(labels, parts, strict=True)
    ]


def together(
    runs: Sequence[Finished], where: str = "--baseline", label: str | None = None
) -> Method:
    """Return the method that some runs are: several seeds, or runs of single tasks or of groups of
    tasks. `where`: the option that they are given by. Raises UserError when two of them have the
    same task and seed, or one seed lacks a task."""
    by_seed: dict[int, list[Finished]] = {}
    problems = []
    for run in sorted(runs, key=lambda run: run.seed):
        for other in by_seed.setdefault(run.seed, []):
            if both := [task for task in run.tasks if task in other.tasks]:
                what = f"seed {run.seed} of {both[0]} is in {other.path} already"
                problems.append(Problem(what, f"{where} {run.path}", "leave one of them out"))
        by_seed[run.seed].append(run)
    tasks = {seed: {task for run in of for task in run.tasks} for seed, of in by_seed.items()}
    for seed, there in tasks.items():
        if missing := set.union(*tasks.values()) - there:
            what = f"no run with seed {seed} has {', '.join(sorted(missing))}"
            problems.append(Problem(what, where, "give a run for each task and seed"))
    if problems:
        raise UserError(problems)
    return Method(label or _labels([runs[0]])[0], by_seed)


def _labels(runs: list[Finished]) -> list[str]:
    """Return a short label for each run: the names in which the runs differ, then other settings,
    then folders, as far as labels need them."""
    named = [
        {key: getattr(getattr(run.config, key), "name", None) for key in SECTIONS} for run in runs
    ]
    differing = [
        key for key in SECTIONS if key == "sharing" or len({str(names[key]) for names in named}) > 1
    ]
    labels = [
        f"{run.made['how']} {run.made['method']}"
        if run.made
        else " ".join(str(names[key]) for key in differing)
        for run, names in zip(runs, named, strict=True)
    ]
    for label in {label for label in labels if labels.count(label) > 1}:
        places = [place for place, each in enumerate(labels) if each == label]
        values_of = [settings(runs[place].config) for place in places]
        keys = [
            key
            for key in values_of[0]
            if len({str(each.get(key)) for each in values_of}) > 1
            and not key.startswith("tasks.")
            and not key.endswith(".name")
        ]
        for place, values in zip(places, values_of, strict=True):
            more = " ".join(
                f"{key}={'null' if (value := values.get(key)) is None else value}"
                for key in keys[:3]
            )
            labels[place] = f"{label} {more}" if keys else f"{label} ({runs[place].path.name})"
    for label in {label for label in labels if labels.count(label) > 1}:
        for place, each in enumerate(labels):
            if each == label:
                labels[place] = f"{label} ({runs[place].path})"
    return labels


def runs_in(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders that some folders are or, as sweeps and comparisons, hold."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(file.parent for file in path.glob("*/results.json"))
        found += inside if inside and not (path / "config.yaml").is_file() else [path]
    return list({path.resolve(): path for path in found}.values())
