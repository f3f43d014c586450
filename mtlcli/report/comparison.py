"""Methods compared with a baseline, from finished runs: who gains, by how much, and how sure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from mtlcli.config.changes import settings
from mtlcli.errors import Problem, UserError, count_of
from mtlcli.report.finished import Finished, check_comparable, rises
from mtlcli.report.resampled import Again, resampled
from mtlcli.report.statistics import (
    Estimate,
    Scored,
    difference,
    estimate,
    holm,
    relative_gain,
    replicate,
    verdict,
)

SECTIONS = ("sharing", "weighting", "sampling", "augmentation", "optim", "model")
"""The sections whose names tell methods apart, in the order in which a label names them."""


class Metric(NamedTuple):
    """A score that runs are compared by."""

    task: str
    name: str
    """The name of the metric."""
    key: str
    """The key of the score in the metric's result."""


@dataclass
class Method:
    """Runs that differ by their seeds alone, or, as a baseline, runs of single tasks."""

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
    def all(self) -> list[Finished]:
        """All runs."""
        return [run for runs in self.runs.values() for run in runs]


@dataclass
class Score:
    """The score of one metric of one task, of the baseline and of a candidate."""

    task: str
    key: str
    """The key of the score in results.json."""
    rises: bool
    """Whether higher is better."""
    baseline: Estimate
    candidate: Estimate
    gain: Estimate
    """The candidate's score minus the baseline's, or the reverse where lower is better."""
    adjusted: float = 1.0
    """The p-value of the gain, corrected for the number of comparisons."""
    verdict: str = ""
    """`helps`, `hurts` or `no difference shown`; empty for other than main metrics."""


@dataclass
class Compared:
    """A candidate beside the baseline."""

    method: Method
    mains: list[Score]
    """The main score of each task."""
    others: list[Score]
    """Further scores, without verdicts."""
    average: Estimate | None
    """The mean gain over tasks; None where the scores are not all fractions."""
    relative: Estimate | None
    """The average relative gain (Delta-m); None where a score of the baseline is not above 0."""
    adjusted: float = 1.0
    """The p-value of the average (else of Delta-m), corrected for the number of candidates."""
    verdict: str = ""


@dataclass
class Comparison:
    """All candidates beside one baseline."""

    baseline: Method
    candidates: list[Compared]
    units: dict[str, tuple[int, str]]
    """For each task how many units were resampled, and their name."""
    replicates: dict[str, int]
    """For each task the number of resamples of its main score."""
    notes: list[str] = field(default_factory=list)
    """What has to be known to judge the comparison."""

    @property
    def tasks(self) -> list[str]:
        """The tasks that are compared."""
        return list(self.units)

    @property
    def methods(self) -> list[Method]:
        """The baseline and the candidates."""
        return [self.baseline, *(each.method for each in self.candidates)]


def methods_of(runs: Sequence[Finished]) -> list[Method]:
    """Return the methods that some runs are of: runs whose settings differ by the seed alone are
    seeds of one method. Runs with the same settings and seed are methods of their own."""
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        groups.setdefault(repr(sorted(settings(run.config).items())), []).append(run)
    parts: list[list[Finished]] = []
    for group in groups.values():
        twice = len({run.seed for run in group}) < len(group)
        parts += [[run] for run in group] if twice else [group]
    labels = _labels([part[0] for part in parts])
    return [
        Method(label, {run.seed: [run] for run in sorted(part, key=lambda run: run.seed)})
        for label, part in zip(labels, parts, strict=True)
    ]


def baseline_of(runs: Sequence[Finished], label: str | None = None) -> Method:
    """Return the baseline of some runs: several seeds, or runs of single tasks. Raises UserError
    when two of them have the same task and seed, or one seed lacks a task."""
    by_seed: dict[int, list[Finished]] = {}
    problems = []
    for run in sorted(runs, key=lambda run: run.seed):
        for other in by_seed.setdefault(run.seed, []):
            if both := [task for task in run.tasks if task in other.tasks]:
                what = f"seed {run.seed} of {both[0]} is in {other.path} already"
                problems.append(Problem(what, f"--baseline {run.path}", "leave one of them out"))
        by_seed[run.seed].append(run)
    tasks = {seed: {task for run in of for task in run.tasks} for seed, of in by_seed.items()}
    for seed, there in tasks.items():
        if missing := set.union(*tasks.values()) - there:
            what = f"no run with seed {seed} has {', '.join(sorted(missing))}"
            problems.append(Problem(what, "--baseline", "give a run for each task and seed"))
    if problems:
        raise UserError(problems)
    return Method(label or _labels([runs[0]])[0], by_seed)


def compare(baseline: Method, candidates: list[Method]) -> Comparison:
    """Compare methods with a baseline. Raises UserError where runs cannot be compared."""
    if not candidates:
        raise UserError(
            "there is no run beside the baseline", "RUN", "give the runs to compare with it"
        )
    if baseline.label in {method.label for method in candidates}:
        baseline.label = f"{baseline.label} (baseline)"
    tasks = [
        task for task in baseline.tasks if any(task in candidate.tasks for candidate in candidates)
    ]
    for method in candidates:
        if not set(tasks) & set(method.tasks):
            raise UserError(
                f"the baseline has none of its tasks: {', '.join(method.tasks)}",
                str(method.all[0].path),
                "give a baseline with the same tasks",
            )
    everyone = [baseline, *candidates]
    check_comparable([run for method in everyone for run in method.all], tasks)
    scored: dict[Metric, dict[int, Scored]] = {}
    units, replicates = {}, {}
    for task in tasks:
        units[task] = _unit(baseline.of(task)[0], task)
        scored |= _scored(task, everyone)
        main = Metric(task, *baseline.of(task)[0].main(task))
        replicates[task] = scored[main][0].replicates.shape[2]
    found = [
        _compared(number, method, baseline, scored, tasks)
        for number, method in enumerate(candidates, start=1)
    ]
    mains = [score for each in found for score in each.mains]
    for score, adjusted in zip(mains, holm([score.gain.p for score in mains]), strict=True):
        score.adjusted, score.verdict = adjusted, verdict(score.gain, adjusted)
    overall = [each.average or each.relative for each in found]
    ps = [1.0 if value is None else value.p for value in overall]
    for each, value, adjusted in zip(found, overall, holm(ps), strict=True):
        each.adjusted = adjusted
        each.verdict = "" if value is None else verdict(value, adjusted)
    notes = _notes(baseline, candidates, tasks)
    if none := [each.method.label for each in found if each.relative is None]:
        notes.append(
            f"Delta-m is not given for {', '.join(none)}: it divides by the baseline's scores, and "
            "one of them is not above 0 on all resamples"
        )
    return Comparison(baseline, found, units, replicates, notes)


def _compared(
    number: int,
    method: Method,
    baseline: Method,
    scored: dict[Metric, dict[int, Scored]],
    tasks: list[str],
) -> Compared:
    """Compare one candidate, the `number`-th method, with the baseline."""
    own = [task for task in tasks if task in method.tasks]
    mains, others = [], []
    chief = [Metric(task, *method.of(task)[0].main(task)) for task in own]
    for metric, of in scored.items():
        if metric.task not in own:
            continue
        up = rises(metric.name)
        gain = estimate(difference(np.array([1.0 if up else -1.0])), of[number], of[0])
        score = Score(metric.task, metric.key, up, _level(of[0]), _level(of[number]), gain)
        (mains if metric in chief else others).append(score)
    ours, theirs = (_together([scored[metric][place] for metric in chief]) for place in (number, 0))
    signs = np.array([1.0 if score.rises else -1.0 for score in mains])
    average = estimate(difference(signs), ours, theirs) if (signs > 0).all() else None
    positive = (theirs.points > 0).all() and (theirs.replicates > 0).all()
    relative = estimate(relative_gain(signs), ours, theirs) if positive else None
    return Compared(method, mains, others, average, relative)


def _level(of: Scored) -> Estimate:
    """Return a method's own score, with its interval."""
    return estimate(lambda ours, theirs: ours[..., 0] + 0 * theirs[..., 0], of, of)


def _together(parts: list[Scored]) -> Scored:
    """Return the scores of several tasks as one, with as many resamples as all of them have."""
    count = min(part.replicates.shape[2] for part in parts)
    return Scored(
        np.concatenate([part.points for part in parts], axis=1),
        np.concatenate([part.replicates[:, :, :count] for part in parts], axis=1),
        min(part.units for part in parts),
    )


def _scored(task: str, methods: list[Method]) -> dict[Metric, dict[int, Scored]]:
    """Return, for each metric of a task, the scores of the methods that have the task, by the place
    of the method. All of them are resampled together."""
    having = {
        place: method.of(task) for place, method in enumerate(methods) if task in method.tasks
    }
    runs = [run for of in having.values() for run in of]
    units = runs[0].predictions(task).units
    found: dict[Metric, dict[int, Scored]] = {}
    metrics = [runs[0].main(task), *runs[0].shown(task)]
    forms = {
        pair: [
            resampled(
                *pair,
                references=run.predictions(task).references,
                units=units,
                **_split(run.inputs(task, pair[0], run.predictions(task).rows)),
            )
            for run in runs
        ]
        for pair in metrics
    }
    # Slow metrics are resampled less often, apart from the others.
    for slow in (False, True):
        pairs = [pair for pair in metrics if isinstance(forms[pair][0], Again) == slow]
        if not pairs:
            continue
        flat = [form for pair in pairs for form in forms[pair]]
        count = int(units.max()) + 1
        points, resamples = replicate(flat, count, crc32(task.encode()))
        for number, pair in enumerate(pairs):
            place = number * len(runs)
            for method, of in having.items():
                rows = slice(place, place + len(of))
                found.setdefault(Metric(task, *pair), {})[method] = Scored(
                    points[rows, None], resamples[rows, None], count
                )
                place += len(of)
    return {metric: found[metric] for metric in (Metric(task, *pair) for pair in metrics)}


def _split(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `compute` as those of `resampled`."""
    options = {name: value for name, value in inputs.items() if name != "predictions"}
    return {"predictions": inputs["predictions"], "options": options}


def _unit(run: Finished, task: str) -> tuple[int, str]:
    """Return the number of units of a task's validation rows, and their name."""
    predictions = run.predictions(task)
    units = int(predictions.units.max()) + 1
    clustered = "cluster" in predictions.rows[0]
    return units, run.tasks[task].unit if clustered else "row"


# ------------------------------------------------------------------------------------------------
# what the runs are, and whether they can be compared


def _labels(runs: list[Finished]) -> list[str]:
    """Return a short label for each run: the names in which the runs differ, then other settings,
    then folders, as far as labels need them."""
    named = [
        {key: getattr(getattr(run.config, key), "name", None) for key in SECTIONS} for run in runs
    ]
    differing = [
        key for key in SECTIONS if key == "sharing" or len({str(names[key]) for names in named}) > 1
    ]
    labels = [" ".join(str(names[key]) for key in differing) for names in named]
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
            more = " ".join(f"{key}={values.get(key)}" for key in keys[:3])
            labels[place] = f"{label} {more}" if keys else f"{label} ({runs[place].path.name})"
    for label in {label for label in labels if labels.count(label) > 1}:
        for place, each in enumerate(labels):
            if each == label:
                labels[place] = f"{label} ({runs[place].path})"
    return labels


def _notes(baseline: Method, candidates: list[Method], tasks: list[str]) -> list[str]:
    """Return what makes runs less comparable than they look."""
    notes = []
    for method in [baseline, *candidates]:
        for run in method.all:
            if run.status != "finished":
                notes.append(f"{run.path} is {run.status}: its results are those so far")
    seeds = min(len(method.runs) for method in [baseline, *candidates])
    if seeds == 1:
        notes.append(
            "with one seed the intervals cover the validation rows only: they are about these "
            "trained models, not about the methods"
        )
    for method in candidates:
        shared = [task for task in tasks if task in method.tasks]
        ours, theirs = _data(method, shared), _data(baseline, shared)
        if other := [task for task in shared if ours[task] != theirs[task]]:
            notes.append(f"{method.label} was trained on other rows of {', '.join(other)}")
        counts = {task: (_examples(method, task), _examples(baseline, task)) for task in shared}
        unequal = [
            f"{task} {mine:,.0f} to {its:,.0f}"
            for task, (mine, its) in counts.items()
            if mine and its and abs(mine - its) > 0.02 * its
        ]
        if unequal:
            notes.append(
                f"{method.label} and {baseline.label} were not trained on as many examples: "
                f"{'; '.join(unequal)}"
            )
        left = [task for task in baseline.tasks if task not in method.tasks]
        if left:
            notes.append(f"{method.label} lacks {', '.join(left)}")
        if new := [task for task in method.tasks if task not in baseline.tasks]:
            notes.append(
                f"{count_of(len(new), 'task')} of {method.label} not in the baseline: "
                f"{', '.join(new)}"
            )
    return list(dict.fromkeys(notes))


def _data(method: Method, tasks: list[str]) -> dict[str, Any]:
    """Return the fingerprint of the train split of each task."""
    found = {}
    for task in tasks:
        run = method.of(task)[0]
        splits = run.environment["data"]["tasks"][task]["splits"]
        read = splits.get(run.config.tasks[task].splits.train)
        found[task] = read and (read["fingerprint"], read["rows"])
    return found


def _examples(method: Method, task: str) -> float:
    """Return the mean number of examples of a task that runs of the method were trained on; 0 where
    they do not say."""
    return float(np.mean([run.examples.get(task, 0) for run in method.of(task)]))


def runs_in(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders that some folders are or, as sweeps and comparisons, hold."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(file.parent for file in path.glob("*/results.json"))
        found += inside if inside and not (path / "config.yaml").is_file() else [path]
    return list({path.resolve(): path for path in found}.values())
