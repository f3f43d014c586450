"""The jobs of a sweep, read from their run folders, so that any launcher may have run them. This
module does not import torch."""

from __future__ import annotations

import csv
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlcli.errors import count_of
from mtlcli.screen import Column, FittingTable

LISTED = "jobs.jsonl"
"""The file of a sweep folder with one object for each job: its number, its folder's name, and its
overrides."""
COSTS = ("parameters", "shared", "per_task", "flops_per_example", "examples_per_s", "peak_memory")
"""The columns of costs. `parameters`: all parameters. `shared`: the shared parameters. `per_task`:
those private to a task (mean over tasks). `flops_per_example`: operations of a forward and backward
pass for one example. `examples_per_s`: examples trained on per second. `peak_memory`: bytes."""


@dataclass
class SweepJob:
    """One job of a sweep."""

    number: int
    """The number of the job, from 0."""
    folder: Path
    """The run folder of the job."""
    overrides: list[str]
    """The overrides of the job, in the sweep's order."""
    status: str
    """The status: `running`, `finished`, `pruned`, `failed` or `interrupted`; `not started` when
    the job has no status.json."""
    reason: str
    """The reason for a failure, interruption or early stop, in one line."""
    average: float | None
    """The average of the main scores; None when the job has none."""
    scores: dict[str, float]
    """The main score of each task."""
    metrics: dict[str, str]
    """The name of the main metric of each task."""
    costs: dict[str, float]
    """The costs of the job, by the names in COSTS; empty when the job has not finished."""

    @property
    def measured(self) -> tuple[tuple[str, str], ...]:
        """The tasks that were scored, each with its main metric. Only averages over the same tasks
        and metrics can be compared."""
        return tuple(sorted(self.metrics.items()))

    @property
    def configuration(self) -> tuple[str, ...]:
        """The overrides without the seed and the fold: jobs with the same overrides are repetitions
        of one configuration."""
        return tuple(
            override
            for override in self.overrides
            if not override.startswith(("seed=", "data.fold="))
        )


@dataclass
class Repeated:
    """The finished jobs of one configuration, which differ by their seeds or folds alone."""

    jobs: list[SweepJob]
    """The jobs, which all have scores for the same tasks."""

    def of(self, task: str | None) -> tuple[float, float | None]:
        """Return the mean and the standard deviation (n - 1; None for one job) of a task's main
        score, or of the average when `task` is None."""
        values = [job.average if task is None else job.scores[task] for job in self.jobs]
        known = [value for value in values if value is not None]
        return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def listed_jobs(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a sweep folder's list of jobs. A last line that a kill has cut short
    does not count."""
    file = folder / LISTED
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def read_job(entry: dict[str, Any], sweep: Path) -> SweepJob:
    """Return a job of the list in the present state of its run folder."""
    place = sweep / entry["folder"]
    status = (
        json.loads((place / "status.json").read_text(encoding="utf-8"))
        if (place / "status.json").exists()
        else {}
    )
    finished = status.get("status") == "finished" and (place / "results.json").exists()
    results = (
        json.loads((place / "results.json").read_text(encoding="utf-8"))
        if finished
        else {"average": None, "tasks": {}}
    )
    scored = {name: task for name, task in results["tasks"].items() if task["main"] is not None}
    return SweepJob(
        number=entry["number"],
        folder=place,
        overrides=entry["overrides"],
        status=status.get("status", "not started"),
        reason=status.get("reason", "").partition("\n")[0],
        average=results["average"],
        scores={name: task["main"] for name, task in scored.items()},
        metrics={name: task["main_metric"] for name, task in scored.items()},
        costs=_costs(results) if finished else {},
    )


def read_sweep(folder: Path) -> list[SweepJob]:
    """Return the jobs of a sweep folder. Jobs with the same tasks and metrics stand together, with
    the best average first; jobs without a score come last."""
    jobs = sorted(
        (read_job(entry, folder) for entry in listed_jobs(folder)), key=lambda job: job.number
    )
    order = list(dict.fromkeys(job.measured for job in jobs))
    return sorted(
        jobs,
        key=lambda job: (
            job.average is None,
            order.index(job.measured),
            -(job.average or 0.0),
            job.number,
        ),
    )


def _costs(results: dict[str, Any]) -> dict[str, float]:
    counts, cost = results["parameters"], results["cost"]
    private = sum(counts["per_task"].values()) / len(counts["per_task"])
    speed = results["throughput"]["examples_per_s"]
    values = (
        counts["total"],
        counts["shared"],
        private,
        cost["flops_per_example"],
        speed,
        cost["peak_memory"],
    )
    return dict(zip(COSTS, values, strict=True))


def varied(jobs: list[SweepJob]) -> list[list[str]]:
    """Return, for each job, the overrides in which the jobs differ."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [[override for override in job.overrides if override not in common] for job in jobs]


def repeated(jobs: list[SweepJob]) -> list[Repeated]:
    """Return the finished jobs by configuration. Configurations with the same tasks and metrics
    stand together, with the best mean average first."""
    found: dict[tuple[Any, ...], list[SweepJob]] = {}
    for job in jobs:
        if job.average is not None:
            found.setdefault((job.measured, frozenset(job.configuration)), []).append(job)
    order = list(dict.fromkeys(measured for measured, _ in found))
    return sorted(
        map(Repeated, found.values()),
        key=lambda each: (order.index(each.jobs[0].measured), -each.of(None)[0]),
    )


# ------------------------------------------------------------------------------------------------
# tables


def sweep_tables(jobs: list[SweepJob]) -> list[FittingTable]:
    """Return the tables of a sweep: all jobs, the costs where the models differ, and the means over
    seeds where there are several seeds."""
    tables = [_job_table(jobs), _cost_table(jobs), _seed_table(jobs)]
    return [table for table in tables if table is not None]


def _job_table(jobs: list[SweepJob]) -> FittingTable:
    """Return a table of all jobs with their average, their tasks' main scores and their status."""
    tasks = _tasks(jobs)
    title = f"sweep: {count_of(len(jobs), 'job')}, the best average first"
    table = _score_table(
        tasks, f"{title}{_apart(jobs)}", Column("job", right=True), after=[Column("status", goes=1)]
    )
    previous = jobs[0] if jobs else None
    for job, overrides in zip(jobs, varied(jobs), strict=True):
        if previous is not None and job.measured != previous.measured:
            table.add_line()
        previous = job
        scores = (_number(job.average), *(_number(job.scores.get(task)) for task in tasks))
        table.add_row(
            str(job.number),
            " ".join(overrides),
            *scores,
            job.status,
            style=None if job.status in ("finished", "pruned") else "red",
        )
    return table


def _seed_table(jobs: list[SweepJob]) -> FittingTable | None:
    """Return a table with the mean and standard deviation over the seeds of each configuration;
    None when no configuration has several seeds."""
    groups = repeated(jobs)
    if all(len(group.jobs) < 2 for group in groups):
        return None
    tasks = _tasks(jobs)
    shared = (
        set.intersection(*(set(group.jobs[0].configuration) for group in groups))
        if len(groups) > 1
        else set()
    )
    table = _score_table(
        tasks,
        f"means over {_repetitions(jobs)}, ± the standard deviation{_apart(jobs)}",
        Column("n", right=True),
    )
    previous = groups[0].jobs[0].measured
    for group in groups:
        first = group.jobs[0]
        if first.measured != previous:
            table.add_line()
        previous = first.measured
        settings = (
            [override for override in first.configuration if override not in shared]
            if len(groups) > 1
            else []
        )
        scores = [
            _spread(*group.of(task)) if task is None or task in first.scores else "-"
            for task in (None, *tasks)
        ]
        table.add_row(str(len(group.jobs)), " ".join(settings), *scores)
    return table


def _cost_table(jobs: list[SweepJob]) -> FittingTable | None:
    """Return a table of the costs of each finished job, in the order of `jobs`; None when all jobs
    have the same parameters and operations."""
    finished = [job for job in jobs if job.costs]
    if len({(job.costs["parameters"], job.costs["flops_per_example"]) for job in finished}) < 2:
        return None
    titles = ("parameters", "shared", "per task", "MFLOP/example", "examples/s", "peak MB")
    more = [Column(title, right=True, goes=number) for number, title in enumerate(titles, start=1)]
    columns = [
        Column("job", right=True),
        Column("overrides", fold=16),
        Column("average", right=True),
        *more,
    ]
    table = FittingTable(columns, title="what each took", whole="sweep.csv")
    overrides = dict(zip((job.number for job in jobs), varied(jobs), strict=True))
    for job in finished:
        cost = job.costs
        numbers = [
            _number(job.average),
            *(f"{cost[name]:,.0f}" for name in ("parameters", "shared", "per_task")),
        ]
        numbers += [
            f"{cost['flops_per_example'] / 1e6:,.1f}",
            f"{cost['examples_per_s']:,.0f}",
            f"{cost['peak_memory'] / 1e6:,.0f}",
        ]
        table.add_row(str(job.number), " ".join(overrides[job.number]), *numbers)
    return table


def _score_table(
    tasks: list[str], title: str, first: Column, after: list[Column] | None = None
) -> FittingTable:
    """Return a table with overrides, the average and every task. Where the window is too narrow,
    the last tasks are left out first."""
    scores = [Column(task, right=True, goes=2 + number) for number, task in enumerate(tasks)]
    columns = [
        first,
        Column("overrides", fold=16),
        Column("average", right=True),
        *scores,
        *(after or []),
    ]
    return FittingTable(columns, title=title, whole="sweep.csv")


def _repetitions(jobs: list[SweepJob]) -> str:
    """Return what jobs of one configuration differ by."""
    keys = {"seed=": "seeds", "data.fold=": "folds"}
    found = [
        name
        for key, name in keys.items()
        if any(each.startswith(key) for overrides in varied(jobs) for each in overrides)
    ]
    return " and ".join(found) or "seeds"


def _apart(jobs: list[SweepJob]) -> str:
    """Return the end of a title, which is empty unless some jobs cannot be compared."""
    if len({job.measured for job in jobs if job.scores}) < 2:
        return ""
    return " within the same tasks and metrics; averages on two sides of a line cannot be compared"


# ------------------------------------------------------------------------------------------------
# sweep.csv


def write_csv(jobs: list[SweepJob], path: Path) -> None:
    """Write the jobs as CSV, one line each, with all digits of the scores and with the means over
    the seeds of each job's configuration.

    `measured` shows which lines can be compared; `n`, `average_mean`, `average_std` and the like
    are over the finished jobs that differ from this one by the seed alone.
    """
    tasks = _tasks(jobs)
    groups = {job.number: group for group in repeated(jobs) for job in group.jobs}
    spreads = [f"{name}_{what}" for name in ("average", *tasks) for what in ("mean", "std")]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            [
                "job",
                "overrides",
                "average",
                *tasks,
                *COSTS,
                "status",
                "reason",
                "folder",
                "measured",
                "n",
                *spreads,
            ]
        )
        for job in jobs:
            scores = [
                "" if score is None else score
                for score in (job.average, *(job.scores.get(task) for task in tasks))
            ]
            costs = [job.costs.get(name, "") for name in COSTS]
            measured = " ".join(f"{task}:{metric}" for task, metric in job.measured)
            group = groups.get(job.number)
            over_seeds: list[Any] = [""] * (1 + len(spreads))
            if group is not None:
                pairs = [
                    group.of(task) if task is None or task in job.scores else ("", "")
                    for task in (None, *tasks)
                ]
                over_seeds = [
                    len(group.jobs),
                    *("" if value is None else value for pair in pairs for value in pair),
                ]
            row = [
                job.number,
                " ".join(job.overrides),
                *scores,
                *costs,
                job.status,
                job.reason,
                job.folder.name,
                measured,
                *over_seeds,
            ]
            writer.writerow(row)


def _tasks(jobs: list[SweepJob]) -> list[str]:
    return list(dict.fromkeys(name for job in jobs for name in job.scores))


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def _spread(mean: float, deviation: float | None) -> str:
    return _number(mean) if deviation is None else f"{_number(mean)} ± {_number(deviation)}"
