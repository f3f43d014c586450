"""The example of a task type that is not language: it trains, is evaluated, and refuses bad
rows."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import mtlcli
from tests import warm
from tests.runs.test_own_code import forget

EXAMPLE = Path(mtlcli.__file__).parents[1] / "examples" / "table"
TRAIN = [
    *("train", "-cd", "my_conf", "task=[buys,plan]", "model=tiny", "model.layers=1"),
    *("model.hidden=32", "data.max_length=16", "runner.steps=130", "optim.lr=3e-3"),
    *("runner.batch_size=64", "runner.threads=1", "data.cache_dir=cache", "run_dir=run"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example with its rows."""
    for name in ("my_conf", "make_rows.py"):
        source = EXAMPLE / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    runpy.run_path(str(tmp_path / "make_rows.py"), run_name="__main__")
    return tmp_path


def mtl(folder: Path, *arguments: str) -> CompletedProcess[str]:
    return warm.mtl(*arguments, before=forget, cwd=folder, MTL_CACHE=str(folder / "cache"))


def test_two_tasks_on_table_rows_share_a_trunk(folder: Path) -> None:
    done = mtl(folder, *TRAIN)
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "run" / "results.json").read_text())
    for task in ("buys", "plan"):
        found = results["tasks"][task]
        assert found["main_metric"] == "cells_accuracy"
        assert found["main"] > 0.85 > 0.65 > found["majority"]
    # One encoder, and a head for each.
    parameters = results["parameters"]
    assert parameters["shared"] > 10 * max(parameters["per_task"].values()) > 0
    evaluated = mtl(folder, "eval", "run", "--json", "again.json", "--predictions", "out")
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads((folder / "again.json").read_text())
    assert again["tasks"] == results["tasks"]
    rows = [json.loads(line) for line in (folder / "out" / "plan.jsonl").open()]
    right = sum(row["gold"] == row["label"] for row in rows) / len(rows)
    assert right == pytest.approx(results["tasks"]["plan"]["main"])


def test_a_cell_is_one_token_and_may_be_empty(folder: Path) -> None:
    train = folder / "rows" / "train.csv"
    header, *rest = train.read_text().splitlines()
    empty = [f",{income},40,farm hand,west,no,usual" for income in range(2000, 2010)]
    train.write_text("\n".join([header, *empty, *rest]) + "\n")
    shown = mtl(folder, "tasks", "plan", "-cd", "my_conf")
    assert shown.returncode == 0, shown.stderr
    assert "7 tokens: [CLS] n0xnone n1x2 n2x2 c0xfarmu32hand c1xwest [SEP]" in shown.stdout


def test_bad_cells_labels_and_edges_are_named(folder: Path) -> None:
    train = folder / "rows" / "train.csv"
    header, _, *rest = train.read_text().splitlines()
    train.write_text("\n".join([header, "old,2000,40,farmer,west,perhaps,usual", *rest]) + "\n")
    done = mtl(folder, *TRAIN)
    assert done.returncode == 2
    assert "train.csv, line 2: task buys: column 'age' holds 'old', which is no number" in (
        done.stderr
    )
    assert "label 'perhaps' is not one of the classes" in done.stderr
    file = folder / "my_conf" / "task" / "buys.yaml"
    text = file.read_text().replace("  hours: [20, 40]\n", "").replace("[25, 35", "[35, 25")
    file.write_text(text)
    done = mtl(folder, *TRAIN)
    assert done.returncode == 2
    assert "tasks.buys.edges: column 'hours' has no edges" in done.stderr
    assert "tasks.buys.edges.age: the edges do not rise" in done.stderr
