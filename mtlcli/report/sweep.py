"""The jobs of a sweep, read from their run folders, so that it does not matter which launcher ran them. No torch."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table


@dataclass
class SweepJob:
    """One job of a sweep."""

    number: int
    """Its number, from 0."""
    folder: Path
    """Its run folder."""
    overrides: list[str]
    """What was given for it, in the sweep's order."""
    status: str
    """running, finished, failed, interrupted; `not started` without a status."""
    reason: str
    """Why it failed or was interrupted, in one line."""
    average: float | None
    """Average of the main scores; None when it has none."""
    scores: dict[str, float]
    """Main score by task."""
    costs: dict[str, float]
    """What it took, by the titles of COSTS; empty when it has not finished."""


COSTS = ("parameters", "shared", "per_task", "flops_per_example", "examples_per_s", "peak_memory")
"""Parameters: all, those that several tasks share, and those private to a task (mean over tasks); operations of a forward and backward pass
for one example; examples trained on in a second; bytes."""


def read_sweep(folder: Path) -> list[SweepJob]:
    """The jobs of a sweep folder, the best average first, those without a score last."""
    listed = folder / "jobs.jsonl"
    if not listed.exists():
        return []
    jobs = []
    for line in listed.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        place = folder / entry["folder"]
        status = json.loads((place / "status.json").read_text(encoding="utf-8")) if (place / "status.json").exists() else {}
        finished = status.get("status") == "finished" and (place / "results.json").exists()
        results = json.loads((place / "results.json").read_text(encoding="utf-8")) if finished else {"average": None, "tasks": {}}
        jobs.append(
            SweepJob(
                number=entry["number"],
                folder=place,
                overrides=entry["overrides"],
                status=status.get("status", "not started"),
                reason=status.get("reason", "").partition("\n")[0],
                average=results["average"],
                scores={name: task["main"] for name, task in results["tasks"].items() if task["main"] is not None},
                costs=_costs(results) if finished else {},
            )
        )
    return sorted(jobs, key=lambda job: (job.average is None, -(job.average or 0.0), job.number))


def _costs(results: dict[str, Any]) -> dict[str, float]:
    counts, cost = results["parameters"], results["cost"]
    private = sum(counts["per_task"].values()) / len(counts["per_task"])
    speed = results["throughput"]["examples_per_s"]
    values = (counts["total"], counts["shared"], private, cost["flops_per_example"], speed, cost["peak_memory"])
    return dict(zip(COSTS, values, strict=True))


def varied(jobs: list[SweepJob]) -> list[list[str]]:
    """For each job the overrides in which the jobs differ."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    return [[override for override in job.overrides if override not in common] for job in jobs]


def sweep_table(jobs: list[SweepJob]) -> Table:
    """All jobs with their average, their tasks' main scores and their status."""
    tasks = _tasks(jobs)
    table = Table(title=f"sweep: {len(jobs)} jobs, the best average first", title_justify="left")
    table.add_column("job", justify="right")
    table.add_column("overrides", overflow="fold")
    for title in ("average", *tasks):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("status")
    for job, overrides in zip(jobs, varied(jobs), strict=True):
        scores = (_number(job.average), *(_number(job.scores.get(task)) for task in tasks))
        table.add_row(str(job.number), " ".join(overrides), *scores, job.status, style=None if job.status == "finished" else "red")
    return table


def cost_table(jobs: list[SweepJob]) -> Table | None:
    """What each finished job took, in the order of `jobs`; None when they all have the same parameters and operations."""
    finished = [job for job in jobs if job.costs]
    if len({(job.costs["parameters"], job.costs["flops_per_example"]) for job in finished}) < 2:
        return None
    table = Table(title="what each took", title_justify="left")
    table.add_column("job", justify="right")
    table.add_column("overrides", overflow="fold")
    for title in ("average", "parameters", "shared", "per task", "MFLOP/example", "examples/s", "peak MB"):
        table.add_column(title, justify="right")
    overrides = dict(zip((job.number for job in jobs), varied(jobs), strict=True))
    for job in finished:
        cost = job.costs
        numbers = [_number(job.average), *(f"{cost[name]:,.0f}" for name in ("parameters", "shared", "per_task"))]
        numbers += [f"{cost['flops_per_example'] / 1e6:,.1f}", f"{cost['examples_per_s']:,.0f}", f"{cost['peak_memory'] / 1e6:,.0f}"]
        table.add_row(str(job.number), " ".join(overrides[job.number]), *numbers)
    return table


def write_csv(jobs: list[SweepJob], path: Path) -> None:
    """The table as CSV: one row per job; scores in full."""
    tasks = _tasks(jobs)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["job", "overrides", "average", *tasks, *COSTS, "status", "reason", "folder"])
        for job in jobs:
            scores = ["" if score is None else score for score in (job.average, *(job.scores.get(task) for task in tasks))]
            costs = [job.costs.get(name, "") for name in COSTS]
            writer.writerow([job.number, " ".join(job.overrides), *scores, *costs, job.status, job.reason, job.folder.name])


def _tasks(jobs: list[SweepJob]) -> list[str]:
    return list(dict.fromkeys(name for job in jobs for name in job.scores))


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"
