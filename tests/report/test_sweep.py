"""The table of a sweep, from run folders as the jobs leave them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from mtlcli.report.sweep import cost_table, read_sweep, sweep_table, varied, write_csv


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Five jobs: two finished, one failed, one interrupted after an evaluation, one that never came to a status."""
    lines = []
    for number, (status, average) in enumerate(
        [("finished", 0.5), ("failed", None), ("finished", 0.75), ("interrupted", 0.9), (None, None)]
    ):
        folder = tmp_path / f"{number}_seed-{number}"
        folder.mkdir()
        lines.append({"number": number, "folder": folder.name, "overrides": ["task=rte", f"seed={number}"]})
        if status is not None:
            reason = {"reason": "step 3: the loss is nan\n    -> lower optim.lr"} if status == "failed" else {}
            (folder / "status.json").write_text(json.dumps({"status": status, **reason}))
        if average is not None:
            results = {
                "average": average,
                "tasks": {"rte": {"main": average}, "ax": {"main": None}},
                "parameters": {"total": 900 + number, "shared": 800, "per_task": {"rte": 100, "ax": number}},
                "throughput": {"examples_per_s": 25.5},
                "cost": {"flops_per_example": 3e6, "peak_memory": 2**29},
            }
            (folder / "results.json").write_text(json.dumps(results))
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_the_best_average_comes_first(sweep: Path) -> None:
    jobs = read_sweep(sweep)
    assert [(job.number, job.status, job.average) for job in jobs] == [
        (2, "finished", 0.75),
        (0, "finished", 0.5),
        (1, "failed", None),
        (3, "interrupted", None),
        (4, "not started", None),
    ], "a job that was interrupted has no final score"
    assert jobs[0].scores == {"rte": 0.75}
    assert jobs[2].reason == "step 3: the loss is nan"


def test_only_what_differs_is_shown(sweep: Path) -> None:
    jobs = read_sweep(sweep)
    assert varied(jobs)[0] == ["seed=2"]
    assert varied(jobs[:1]) == [["task=rte", "seed=2"]]
    console = Console(width=120, record=True)
    console.print(sweep_table(jobs))
    text = console.export_text()
    assert "0.7500" in text and "seed=2" in text and "task=rte" not in text and "not started" in text


def test_what_each_took_is_shown_where_the_models_differ(sweep: Path) -> None:
    jobs = read_sweep(sweep)
    table = cost_table(jobs)
    assert table is not None
    console = Console(width=120, record=True)
    console.print(table)
    text = console.export_text()
    assert [line.split() for line in text.splitlines() if "│" in line] == [
        ["│", "2", "│", "seed=2", "│", "0.7500", "│", "902", "│", "800", "│", "51", "│", "3.0", "│", "26", "│", "537", "│"],
        ["│", "0", "│", "seed=0", "│", "0.5000", "│", "900", "│", "800", "│", "50", "│", "3.0", "│", "26", "│", "537", "│"],
    ]
    assert cost_table(jobs[:1]) is None and cost_table([]) is None


def test_csv_holds_everything(sweep: Path) -> None:
    write_csv(read_sweep(sweep), sweep / "sweep.csv")
    with (sweep / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0] == {
        "job": "2",
        "overrides": "task=rte seed=2",
        "average": "0.75",
        "rte": "0.75",
        "parameters": "902",
        "shared": "800",
        "per_task": "51.0",
        "flops_per_example": "3000000.0",
        "examples_per_s": "25.5",
        "peak_memory": "536870912",
        "status": "finished",
        "reason": "",
        "folder": "2_seed-2",
    }
    assert rows[2]["average"] == rows[2]["rte"] == "" and rows[2]["reason"].startswith("step 3")


def test_a_folder_without_jobs(tmp_path: Path) -> None:
    assert read_sweep(tmp_path) == []
