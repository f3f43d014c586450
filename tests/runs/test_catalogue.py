"""Every task of conf/task, in one run on the sample world: composed, encoded, trained for a step,
evaluated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.groups import members, read_group
from mtlcli.cli.preflight import preflight
from mtlcli.cli.tasks import tasks_main
from mtlcli.config import task_types
from tests.small_run import start

FILES = read_group("task")
NAMES = [name for name, file in FILES.items() if not file.suite]


def test_every_task_is_trained_for_a_step_and_evaluated(tmp_path: Path) -> None:
    folder = start(
        tmp_path / "run",
        f"task=[{','.join(NAMES)}]",
        "sampling=all",
        "data.max_train_rows=30",
        "runner.batch_size=2",
        "runner.steps=1",
        "runner.eval_every=1",
        "runner.save_every=null",
    )
    results = json.loads((folder / "results.json").read_text())
    trained = {name for name in NAMES if FILES[name].section("splits")["train"]}
    assert set(NAMES) - trained == {"ax"}, "which has only a test split"
    assert results["tasks"].keys() == trained and results["data_source"] == "sample"
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert row["tasks"].keys() == trained
    assert all(math.isfinite(task["loss"]) and task["loss"] > 0 for task in row["tasks"].values())
    for name, task in results["tasks"].items():
        assert math.isfinite(task["main"]), name
        assert all(0 < rows["used"] <= 8 for rows in task["rows"].values()), name


def test_every_prompt_fits_its_task() -> None:
    """The columns in braces and the labels with an answer are those of the task."""
    kinds = {name: task_types.configs[FILES[name].values["type"]] for name in NAMES}
    names = [name for name, kind in kinds.items() if kind.no_text_form is None]
    (config,) = preflight(
        read_arguments(
            [f"task=[{','.join(names)}]", "form=text", "model=tiny_decoder", "data=sample"]
        )
    ).configs
    prompts = {name: len(task.templates) for name, task in config.tasks.items()}
    several = set(members("t0_small", FILES)) - {"squad", "trec", "yelp_review_full"}
    assert all(prompts[name] > 1 for name in several), prompts


def test_the_lists_name_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks_main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert FILES.keys() <= {line.split()[0] for line in lines if line.strip()}
    for name, file in FILES.items():
        if file.suite:
            tasks = members(name, FILES)
            assert len(set(tasks)) == len(tasks) and set(tasks) <= set(NAMES), name
