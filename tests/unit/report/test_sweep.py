"""The table of a sweep, from run folders as the jobs leave them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from mtlcli.report.sweep import SweepJob, read_sweep, sweep_tables, varied, write_csv
from mtlcli.screen import FittingTable, screen


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Five jobs: two finished, one failed, one interrupted after an evaluation, one that never came
    to a status."""
    lines = []
    for number, (status, average) in enumerate(
        [
            ("finished", 0.5),
            ("failed", None),
            ("finished", 0.75),
            ("interrupted", 0.9),
            (None, None),
        ]
    ):
        folder = tmp_path / f"{number}_seed-{number}"
        folder.mkdir()
        lines.append(
            {"number": number, "folder": folder.name, "overrides": ["task=rte", f"seed={number}"]}
        )
        if status is not None:
            reason = (
                {"reason": "step 3: the loss is nan\n    -> lower optim.lr"}
                if status == "failed"
                else {}
            )
            (folder / "status.json").write_text(json.dumps({"status": status, **reason}))
        if average is not None:
            results = {
                "average": average,
                "tasks": {
                    "rte": {"main": average, "main_metric": "accuracy"},
                    "ax": {"main": None, "main_metric": None},
                },
                "parameters": {
                    "total": 900 + number,
                    "shared": 800,
                    "per_task": {"rte": 100, "ax": number},
                },
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
    text = printed(sweep_tables(jobs)[0])
    assert (
        "0.7500" in text and "seed=2" in text and "task=rte" not in text and "not started" in text
    )


def test_costs_are_shown_if_the_models_differ(sweep: Path) -> None:
    jobs = read_sweep(sweep)
    text = printed(sweep_tables(jobs)[1])
    assert [line.split() for line in text.splitlines() if "│" in line] == [
        [
            "│",
            "2",
            "│",
            "seed=2",
            "│",
            "0.7500",
            "│",
            "902",
            "│",
            "800",
            "│",
            "51",
            "│",
            "3.0",
            "│",
            "26",
            "│",
            "537",
            "│",
        ],
        [
            "│",
            "0",
            "│",
            "seed=0",
            "│",
            "0.5000",
            "│",
            "900",
            "│",
            "800",
            "│",
            "50",
            "│",
            "3.0",
            "│",
            "26",
            "│",
            "537",
            "│",
        ],
    ]
    assert len(sweep_tables(jobs[:1])) == len(sweep_tables([])) == 1


def test_seeds_of_one_configuration_are_taken_together() -> None:
    jobs = [
        job(0, "lr=1 seed=0", rte=0.5),
        job(1, "lr=1 seed=1", rte=0.7),
        job(2, "lr=2 seed=0", rte=0.65),
    ]
    text = printed(sweep_tables(jobs)[-1])
    assert [line.split("│")[1:4] for line in text.splitlines() if "│" in line] == [
        [" 1 ", " lr=2      ", "          0.6500 "],
        [" 2 ", " lr=1      ", " 0.6000 ± 0.1414 "],
    ], "the better mean comes first, and one job has no deviation"
    assert len(sweep_tables(jobs[1:])) == 1, "nothing is repeated"


def test_jobs_with_different_tasks_or_metrics_are_not_ranked(tmp_path: Path) -> None:
    jobs = [
        job(0, "task=rte", rte=0.5),
        job(1, "task=cola", cola=0.6),
        job(2, "task=rte", rte=0.7),
        job(3, "task=rte", rte=0.9),
    ]
    jobs[3].metrics = {"rte": "f1"}
    lines = []
    for each in jobs:
        place = tmp_path / each.folder.name
        place.mkdir()
        (place / "status.json").write_text(json.dumps({"status": "finished"}))
        tasks = {
            name: {"main": score, "main_metric": each.metrics[name]}
            for name, score in each.scores.items()
        }
        results = {
            "average": each.average,
            "tasks": tasks,
            "parameters": {"total": 1, "shared": 1, "per_task": {"rte": 1}},
        }
        results |= {
            "throughput": {"examples_per_s": 1},
            "cost": {"flops_per_example": 1, "peak_memory": 1},
        }
        (place / "results.json").write_text(json.dumps(results))
        lines.append(
            json.dumps({"number": each.number, "folder": place.name, "overrides": each.overrides})
            + "\n"
        )
    # The last line was cut short when the sweep was killed.
    (tmp_path / "jobs.jsonl").write_text("".join(lines) + '{"number": 4, "fol')
    assert [each.number for each in read_sweep(tmp_path)] == [2, 0, 1, 3]
    text = printed(sweep_tables(read_sweep(tmp_path))[0])
    assert text.count("├") == 2 and "cannot" in text and "be compared" in text


def test_text_of_the_user_is_never_markup() -> None:
    jobs = [
        job(0, "metrics=[accuracy]", **{"[/b]": 0.5}),
        job(1, "metrics=[/b]", **{"[/b]": 0.5}),
        job(2, "name=:smile:"),
    ]
    text = printed(sweep_tables(jobs)[0])
    assert (
        "metrics=[accuracy]" in text
        and "metrics=[/b]" in text
        and ":smile:" in text
        and " [/b] " in text
    )


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        ("40", ["job", "overrides", "average"]),
        ("60", ["job", "overrides", "average", "rte", "status"]),
        ("", ["job", "overrides", "average", "rte", "cola", "status"]),
    ],
)
def test_a_narrow_table_drops_columns_and_never_cuts_numbers(
    width: str, titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    jobs = [
        job(
            number,
            f"tasks.cola.weight={number} model.name=a/model/with/a/long/name",
            rte=0.5,
            cola=0.25,
        )
        for number in range(2)
    ]
    lines = printed(sweep_tables(jobs)[0]).splitlines()
    assert next(line for line in lines if "overrides" in line).replace("┃", " ").split() == titles
    assert all(len(line) <= int(width or 1000) for line in lines)
    assert sum("0.3750" in line for line in lines) == 2 and any(
        "too narrow for" in line for line in lines
    ) == bool(width)


def printed(table: FittingTable) -> str:
    """What a table looks like in a pipe, or in a window as wide as COLUMNS says."""
    out = io.StringIO()
    screen(file=out).print(table)
    return out.getvalue()


def job(number: int, overrides: str, **scores: float) -> SweepJob:
    """A finished job with these scores; without any, one that failed."""
    average = sum(scores.values()) / len(scores) if scores else None
    status = "finished" if scores else "failed"
    metrics = dict.fromkeys(scores, "accuracy")
    return SweepJob(
        number, Path(f"{number}"), overrides.split(), status, "", average, scores, metrics, {}
    )


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
        "measured": "rte:accuracy",
        "n": "2",
        "average_mean": "0.625",
        "average_std": str(0.125 * 2**0.5),
        "rte_mean": "0.625",
        "rte_std": str(0.125 * 2**0.5),
    }
    assert rows[2]["average"] == rows[2]["rte"] == "" and rows[2]["reason"].startswith("step 3")


def test_a_folder_without_jobs(tmp_path: Path) -> None:
    assert read_sweep(tmp_path) == []
