"""A sweep in a folder of the user's choice: folders named by what differs, a job that fails on its data, the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mtlcli.cli.train import job_folder
from mtlcli.config.snapshot import load_config
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


def test_a_job_that_fails_on_its_data(tmp_path: Path) -> None:
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    (tmp_path / "my_conf" / "task" / "mine.yaml").write_text(TASK)
    (tmp_path / "train.csv").write_text("sentence,label,broken\n" + "so good,good,good\nso bad,bad,worse\n" * 8)
    settings = ["model=tiny", "runner.steps=2", "runner.device=cpu", f"data.cache_dir={tmp_path / 'cache'}", "run_dir=out"]
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
    assert command[:4] == ["mtl", "train", "-cd", str(tmp_path / "my_conf")] and "tasks.mine.columns.label=label" in command

    with (out / "sweep.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["job"], row["status"]) for row in rows] == [("1", "finished"), ("0", "failed")]
    assert float(rows[0]["average"]) == float(rows[0]["mine"])
    assert "tasks.mine.columns.label=label" in done.stdout and "sweep folder: out" in done.stdout
    block = done.stderr[done.stderr.index("mtl train: 1 problem") :]
    assert block.startswith("mtl train: 1 problem\n  job 0 tasks.mine.columns.label=broken: train.csv, line 3")
    assert block.endswith(f"-> its folder: {Path('out') / '0_label-broken'}\n")

    again = mtl("train", "-m", *options, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == (
        "mtl train: 1 problem\n  run_dir=out: the folder is not empty\n      -> give another run_dir=, or delete the folder\n"
    )


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
