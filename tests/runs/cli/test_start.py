"""What happens before the first step: what is imported until then, and what the later jobs of a
sweep do not do again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtlcli import garbage
from mtlcli.cli import train
from mtlcli.data import vocabulary
from mtlcli.data.sample import _tables, world
from mtlcli.prepare import store
from tests.warm import ENVIRONMENT, ROOT, mtl

LATER = [
    "datasets",
    "evaluate",
    "matplotlib",
    "pandas",
    "sklearn",
    "tensorboard",
    "torchvision",
]
"""What no run needs for its first step; the metrics are for the first evaluation."""
TASK = """\
# @package tasks.{name}
type: {kind}
source:
  files: {{train: {folder}/{name}.parquet, validation: {folder}/{name}.parquet}}
columns:
  text: {text}
"""
AT_FIRST_STEP = """
import gc, json, sys
from mtlcli.rundir import console

def start(self, *arguments):
    found = [name for name in {later} if name in sys.modules]
    print("AT THE FIRST STEP", json.dumps([found, "torch" in sys.modules, gc.get_threshold()]))
    sys.exit(0)

console.Console.start = start
sys.argv = ["mtl", *sys.argv[1:]]
from mtlcli.__main__ import main
main()
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with parquet files of every task type and what names them as tasks."""
    rows = [f"number {number} is {'odd' if number % 2 else 'even'}" for number in range(16)]
    answers = [{"text": ["number"], "answer_start": [0]}] * len(rows)
    tables = {
        "mine": {"text": rows, "label": [number % 2 for number in range(16)]},
        "score": {"text": rows, "label": [number / 16 for number in range(16)]},
        "where": {
            "question": rows,
            "context": rows,
            "answers": answers,
            "id": [str(number) for number in range(16)],
        },
    }
    kinds = {"mine": "classification", "score": "regression", "where": "span"}
    (tmp_path / "conf" / "task").mkdir(parents=True)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        text = TASK.format(name=name, kind=kinds[name], folder=tmp_path, text="text")
        text = (
            text.replace("  text: text", "  question: question\n  context: context\n  id: id")
            if name == "where"
            else text
        )
        (tmp_path / "conf" / "task" / f"{name}.yaml").write_text(
            text + ("labels: [even, odd]\n" if name == "mine" else "")
        )
    return tmp_path


def test_what_is_imported_before_the_first_step(own: Path) -> None:
    arguments = [
        "train",
        "-cd",
        str(own / "conf"),
        "task=[mine,score,where]",
        "model=tiny",
        "runner.steps=1",
        "runner.device=cpu",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            AT_FIRST_STEP.format(later=LATER),
            *arguments,
            f"run_dir={own / 'run'}",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT | {"MTL_CACHE": str(own / "cache")},
        timeout=500,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("AT THE FIRST STEP")]
    assert len(lines) == 1, done.stdout + done.stderr
    imported, torch, threshold = json.loads(lines[0].removeprefix("AT THE FIRST STEP"))
    assert imported == []
    assert torch, "the line was printed by a run that was about to train"
    assert tuple(threshold) == garbage.USUAL, (
        "training frees what cycles hold as soon as any program does"
    )


def show_work() -> None:
    """Print when something is done that takes long and depends on nothing that a seed changes, and
    when a job begins."""

    def show(holder: Any, name: str) -> None:
        real = getattr(holder, name)

        def call(*arguments: Any, **options: Any) -> Any:
            print("DONE", name, flush=True)
            return real(*arguments, **options)

        setattr(holder, name, call)

    _tables.cache_clear()
    show(vocabulary, "_build_tokenizer")
    show(store, "_build")
    show(world.World, "__init__")
    show(train, "run_job")


def test_later_jobs_of_a_sweep_reuse_the_work_of_the_first(tmp_path: Path) -> None:
    options = ["task=wnli", "data=sample", "model=tiny", "runner.steps=1", "runner.device=cpu"]
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    done = mtl(
        "train", "-m", "seed=0,1", *options, cache, "run_dir=out", before=show_work, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    first, second = [part.splitlines() for part in done.stdout.split("DONE run_job\n")[1:]]
    assert {"DONE _build_tokenizer", "DONE _build", "DONE __init__"} <= set(first), (
        "what is counted is what the first job did"
    )
    assert [line for line in second if line.startswith("DONE")] == []


def test_a_job_of_a_sweep_is_the_run_that_it_would_be_alone(tmp_path: Path) -> None:
    """What is kept within the process is kept for its texts alone."""
    options = [
        "data=sample",
        "model=tiny",
        "runner.steps=1",
        "runner.device=cpu",
        "data.max_eval_rows=20",
    ]
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    done = mtl("train", "-m", "task=sst2,wnli", *options, cache, "run_dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = mtl("train", "task=wnli", *options, cache, "run_dir=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    swept = next((tmp_path / "sweep").glob("1_*"))
    for name in ("tokenizer.json", "backbone.json"):
        assert (swept / "backbone" / name).read_text() == (
            tmp_path / "alone" / "backbone" / name
        ).read_text()
    rows = [
        json.loads((folder / "metrics.jsonl").read_text())["tasks"]
        for folder in (swept, tmp_path / "alone")
    ]
    assert rows[0] == rows[1]
