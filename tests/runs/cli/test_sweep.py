"""A sweep in a folder of the user's choice: folders named by what differs, a job that fails on its
data, the table."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from mtlcli.cli import sweep
from mtlcli.cli.train import job_folder
from mtlcli.config import Config
from mtlcli.config.snapshot import load_config
from mtlcli.rundir.folder import RunFolder
from tests.warm import mtl

TASK = """\
# @package tasks.mine
type: classification
source:
  files: {train: train.csv, validation: train.csv}
columns:
  text: sentence
labels: [bad, good]
"""


SMALL = [
    *("task=rte", "data=sample", "data.max_train_rows=64", "data.max_eval_rows=16"),
    *("model=tiny", "model.hidden=8", "model.heads=1", "model.layers=1", "runner.device=cpu"),
]


def test_a_job_that_fails_on_its_data(tmp_path: Path) -> None:
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    (tmp_path / "my_conf" / "task" / "mine.yaml").write_text(TASK)
    (tmp_path / "train.csv").write_text(
        "sentence,label,broken\n" + "so good,good,good\nso bad,bad,worse\n" * 8
    )
    settings = [
        "model=tiny",
        "runner.steps=2",
        "runner.device=cpu",
        f"data.cache_dir={tmp_path / 'cache'}",
        "run_dir=out",
    ]
    options = ["tasks.mine.columns.label=broken,label", "-cd", "my_conf", "task=mine", *settings]
    done = mtl("train", "-m", *options, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr

    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "0_label-broken",
        "1_label-label",
        "jobs.jsonl",
        "multirun.yaml",
        "sweep.csv",
    }
    assert json.loads((out / "1_label-label" / "status.json").read_text())["status"] == "finished"
    failed = json.loads((out / "0_label-broken" / "status.json").read_text())
    assert failed["status"] == "failed" and "'worse'" in failed["reason"]
    config = load_config(out / "1_label-label" / "config.yaml")
    assert config.run_dir == str(Path("out") / "1_label-label")
    command = json.loads((out / "1_label-label" / "environment.json").read_text())["command"]
    assert (
        command[:4] == ["mtl", "train", "-cd", str(tmp_path / "my_conf")]
        and "tasks.mine.columns.label=label" in command
    )

    with (out / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["job"], row["status"]) for row in rows] == [("1", "finished"), ("0", "failed")]
    assert float(rows[0]["average"]) == float(rows[0]["mine"])
    assert "tasks.mine.columns.label=label" in done.stdout and "sweep folder: out" in done.stdout
    told, _, block = done.stderr.partition("mtl train: 1 problem\n")
    assert (
        told.startswith("job 0 failed: train.csv, line 3")
        and done.stderr.count("line 3: task") == 1
    ), "a failure is told once"
    assert block.startswith(
        "  out: 1 of 2 jobs did not finish: job 0 (tasks.mine.columns.label=broken) failed\n"
        "      -> the reasons are above and in sweep.csv; then go on with: mtl train -m -cd "
        "my_conf "
    )
    assert block.endswith(
        f"tasks.mine.columns.label=broken,label task=mine {' '.join(settings[:-1])} run_dir=out "
        "resume=auto\n"
    )
    assert "\njob 1 (2 of 2): tasks.mine.columns.label=label\n" in done.stdout

    again = mtl("train", "-m", *options, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == (
        "mtl train: 1 problem\n  run_dir=out: the folder is not empty\n      -> give another "
        "run_dir=, or delete the folder\n"
    )


def die_in_the_second_job(prefix: str = "1_seed-1") -> None:
    """Kill the sweep in step 3 of its second job, once that job has a checkpoint."""
    append = RunFolder.append_metrics

    def append_and_die(self: RunFolder, row: dict[str, Any]) -> None:
        append(self, row)
        if row["step"] == 3 and self.path.name.startswith(prefix):
            while not [*self.checkpoints.glob("step_*/manifest.json")]:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    RunFolder.append_metrics = append_and_die  # type: ignore[method-assign]


def test_a_killed_sweep_resumes_with_the_missing_jobs(tmp_path: Path) -> None:
    run = [
        "runner.steps=4",
        "runner.save_every=2",
        "logger.every=1",
        "optim.lr=1e-3",
    ]
    common = [
        *SMALL,
        *run,
        f"data.cache_dir={tmp_path / 'cache'}",
        "run_dir=out",
    ]
    killed = mtl("train", "-m", *common, "seed=0,1", cwd=tmp_path, before=die_in_the_second_job)
    assert killed.returncode == -9
    out = tmp_path / "out"
    with (out / "jobs.jsonl").open("a") as stream:
        stream.write('{"number": 2, "fol')
    finished = (out / "0_seed-0" / "results.json").stat().st_mtime_ns

    other = mtl(
        "train", "-m", *common, "seed=0,1", "runner.batch_size=8", "resume=auto", cwd=tmp_path
    )
    assert (
        other.returncode == 2
        and "was started with other values: nothing there, runner.batch_size=8 here" in other.stderr
    )

    # The same values in another order and another form, and a seed more.
    again = [*common[:-1], "optim.lr=0.001", "run_dir=out"]
    done = mtl(
        "train",
        "-m",
        "seed=0,1,2",
        *(text for text in again if text != "optim.lr=1e-3"),
        "resume=auto",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "job 0 (1 of 3): seed=0: has already finished" in done.stdout
    assert (
        "job 1 (2 of 3): seed=1: resumes (it was running)" in done.stdout
        and "job 2 (3 of 3): seed=2\n" in done.stdout
    )
    assert (out / "0_seed-0" / "results.json").stat().st_mtime_ns == finished
    assert (
        json.loads((out / "1_seed-1" / "environment.json").read_text())["resumed"][0]["step"] == 2
    )
    assert [
        json.loads(line)["folder"] for line in (out / "jobs.jsonl").read_text().splitlines()
    ] == ["0_seed-0", "1_seed-1", "2_seed-2"]
    with (out / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["status"], row["n"]) for row in rows} == {
        ("finished", "3")
    } and "means over seeds" in done.stdout


def fail_at_the_end() -> None:
    """Fail after the second job has ended."""
    run = sweep.run_job

    def late(config: Config, *rest: Any, **options: Any) -> None:
        run(config, *rest, **options)
        if config.seed == 1:
            raise RuntimeError("after the end")

    sweep.run_job = late


def test_a_job_that_fails_after_its_end(tmp_path: Path) -> None:
    settings = [
        *SMALL,
        "runner.steps=1",
        f"data.cache_dir={tmp_path / 'cache'}",
    ]
    done = mtl(
        "train", "-m", *settings, "seed=0,1", "run_dir=out", cwd=tmp_path, before=fail_at_the_end
    )
    assert (
        done.returncode == 1
        and "out: 1 of 2 jobs did not finish: job 1 (seed=1) failed" in done.stderr
    ), done.stderr


def test_resuming_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    for arguments, answer in (
        (
            ["run_dir=out", "resume=auto"],
            "run_dir=out: the folder holds no sweep (looked for jobs.jsonl)",
        ),
        (["resume=auto"], "resume=auto: which sweep do you mean?"),
        (["resume=out"], "resume: a sweep is resumed in its own folder"),
    ):
        done = mtl("train", "-m", "task=rte", "seed=0,1", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and answer in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]


def test_a_swept_run_dir_is_refused(tmp_path: Path) -> None:
    done = mtl("train", "-m", "task=rte", "run_dir=a,b", cwd=tmp_path)
    assert done.returncode == 2 and "every job of a sweep has its own folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ("++tasks.cola.weight=0.5|weighting=static", "7_weight-0.5_weighting-static"),
        ("task=[cola,rte]|++model.name=a/b c", "7_task-cola-rte_name-a-b-c"),
        ("++optim.lr=1e-05", "7_lr-1e-05"),
        ("", "7"),
        ("++data.root=" + "x" * 200, "7_root-" + "x" * 73),
    ],
)
def test_folder_names(overrides: str, name: str) -> None:
    assert job_folder(7, overrides) == name
