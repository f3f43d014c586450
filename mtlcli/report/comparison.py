"""Methods compared with a baseline, from finished runs: who gains, by how much, and how sure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from mtlcli.errors import UserError, count_of
from mtlcli.report.finished import CLASSES, Finished, check_comparable, rises
from mtlcli.report.methods import Method
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


class Metric(NamedTuple):
    """A score that runs are compared by."""

    task: str
    name: str
    """The name of the metric."""
    key: str
    """The key of the score in the metric's result."""


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
    classes: dict[str, tuple[Estimate, Estimate]] = field(default_factory=dict)
    """The means over all tasks with one class per row of accuracy, precision, recall and F1, of the
    baseline and of the candidate; empty for fewer than two such tasks."""
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
    left_out: dict[str, str] = field(default_factory=dict)
    """The task that each candidate lacks, by its label, where the question is what the tasks do to
    one another: the baseline has all of them then. Empty for other comparisons."""

    @property
    def tasks(self) -> list[str]:
        """The tasks that are compared."""
        return list(self.units)

    @property
    def methods(self) -> list[Method]:
        """The baseline and the candidates."""
        return [self.baseline, *(each.method for each in self.candidates)]


def compare(
    baseline: Method, candidates: list[Method], left_out: dict[str, str] | None = None
) -> Comparison:
    """Compare methods with a baseline. `left_out`: see `Comparison`. Raises UserError where runs
    cannot be compared."""
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
                "leave it out, or give a baseline with the same tasks",
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
    notes = _notes(baseline, candidates, tasks, left_out or {})
    if (none := [each.method.label for each in found if each.relative is None]) and not left_out:
        notes.append(
            f"Delta-m is not given for {', '.join(none)}: it divides by the baseline's scores, and "
            "one of them is not above 0 on all resamples"
        )
    return Comparison(baseline, found, units, replicates, notes, left_out or {})


def _compared(
    number: int,
    method: Method,
    baseline: Method,
    scored: dict[Metric, dict[int, Scored]],
    tasks: list[str],
) -> Compared:
    """Compare one candidate, the `number`-th method, with the baseline."""
    own = [task for task in tasks if task in method.tasks]
    mains: list[Score] = []
    others: list[Score] = []
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
    keys = {task: {metric.key for metric in scored if metric.task == task} for task in own}
    classed = [task for task in own if set(CLASSES) <= keys[task]]
    positive = (theirs.points > 0).all() and (theirs.replicates > 0).all()
    relative = estimate(relative_gain(signs), ours, theirs) if positive else None
    classes = {}
    for key in CLASSES:
        of_key = [metric for metric in scored if metric.key == key and metric.task in classed]
        if len(of_key) > 1:
            sides = (
                _together([scored[metric][place] for metric in of_key]) for place in (0, number)
            )
            theirs_of, ours_of = map(_level, sides)
            classes[key] = theirs_of, ours_of
    return Compared(method, mains, others, average, relative, classes)


def _level(of: Scored) -> Estimate:
    """Return a method's own score, the mean over tasks, with its interval."""
    return estimate(lambda ours, theirs: (ours + 0 * theirs).mean(axis=-1), of, of)


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


def _notes(
    baseline: Method, candidates: list[Method], tasks: list[str], left_out: dict[str, str]
) -> list[str]:
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
        if other := _other_data(method, baseline, shared, "train"):
            notes.append(f"{method.label} was trained on other rows of {', '.join(other)}")
        if other := _other_data(method, baseline, shared, "validation"):
            notes.append(
                f"{method.label} was scored on another file of {', '.join(other)} than "
                f"{baseline.label}: the rows have the same labels, and may have other texts"
            )
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
            if any(run.examples_before for run in (*method.all, *baseline.all)):
                notes[-1] += ", with those of the runs with whose weights runs have begun"
        left = [task for task in baseline.tasks if task not in method.tasks]
        if left and method.label not in left_out:
            notes.append(f"{method.label} lacks {', '.join(left)}")
        if new := [task for task in method.tasks if task not in baseline.tasks]:
            notes.append(
                f"{count_of(len(new), 'task')} of {method.label} not in the baseline: "
                f"{', '.join(new)}"
            )
    if begun := [
        method.label
        for method in [baseline, *candidates]
        if any(run.environment.get("init") for run in method.all)
    ]:
        notes.append(
            f"what each took leaves out the runs with whose weights {', '.join(begun)} has begun"
        )
    return list(dict.fromkeys(notes))


def _other_data(method: Method, baseline: Method, tasks: list[str], split: str) -> list[str]:
    """Return the tasks of which two methods are known to have read other files, or other numbers of
    rows, as their `split`: `train` or `validation`."""
    found = []
    for task in tasks:
        ours, theirs = (_data(each.of(task)[0], task, split) for each in (method, baseline))
        if ours and theirs and ours != theirs:
            found.append(task)
    return found


def _data(run: Finished, task: str, split: str) -> tuple[str, int] | None:
    """Return the fingerprint and the number of rows of a split; None where the run, such as a
    merged one, does not say them."""
    record = run.environment.get("data", {}).get("tasks", {}).get(task, {})
    name = getattr(run.config.tasks[task].splits, split)
    read = record.get("splits", {}).get(name if isinstance(name, str) else name[0])
    return read and (read["fingerprint"], read["rows"])


def _examples(method: Method, task: str) -> float:
    """Return the mean number of examples of a task that runs of the method were trained on, with
    those of the runs with whose weights they began; 0 where they do not say."""
    counts = [
        run.examples.get(task, 0) + run.examples_before.get(task, 0) for run in method.of(task)
    ]
    return float(np.mean(counts))
