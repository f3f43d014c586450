"""Another installed package adds a method of each kind through entry points, one file each, and
`mtl` trains with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import mtlcli
from tests.pinned import ENVIRONMENT

ROOT = Path(mtlcli.__file__).parents[1]

WEIGHTING = '''
"""Twice the plain sum."""
from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.weighting import WeightingConfig, weightings
from mtlcli.weighting.base import LossWeighting


@weightings.register("toy", "Toy")
@section
class ToyWeighting(WeightingConfig):
    """Every loss times a factor."""

    name: Literal["toy"] = "toy"
    """Method."""
    factor: float = 2.0
    """The factor."""


class Toy(LossWeighting):
    def weights(self, step):
        return {name: self.config.factor * self.tasks[name].weight for name in step.tasks}
'''
SAMPLING = '''
"""The tasks in turn."""
from typing import Literal

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import Sampling


@samplings.register("toy", "Toy")
@section
class ToySampling(SamplingConfig):
    """One task a step, in turn."""

    name: Literal["toy"] = "toy"
    """Policy."""


class Toy(Sampling):
    def plan(self, step):
        name = self.names[step % len(self.names)]
        return [(name, self.sizes[name].batch_size)]
'''
SHARING = '''
"""Hard sharing under another name; the class is in a file of its own, since it needs torch."""
from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.sharing import SharingConfig, sharings


@sharings.register("toy", "toy_trunk:Toy")
@section
class ToySharing(SharingConfig):
    """One backbone for all tasks."""

    name: Literal["toy"] = "toy"
    """Strategy."""
'''
TRUNK = """
from mtlcli.sharing.hard.trunk import Hard


class Toy(Hard):
    pass
"""
TASK_TYPE = '''
"""Regression with the absolute error as its loss."""
from typing import Literal

from mtlcli.config.section import section
from mtlcli.config.task import task_types
from mtlcli.tasks.regression import RegressionTask
from mtlcli.tasks.regression.task import Regression


@task_types.register("toy", "Toy")
@section
class ToyTask(RegressionTask):
    """One real number, learned by its absolute error."""

    type: Literal["toy"] = "toy"
    """Task type."""


class Toy(Regression):
    @property
    def default_metrics(self):
        return ["toy"]

    def loss(self, outputs, batch):
        return (outputs["logits"].float().squeeze(-1) - batch.columns["score"]).abs().sum()
'''
METRIC = '''
"""A metric of the toy task type."""
from mtlcli.metrics import metric


@metric("toy", "toy")
def toy(predictions, references):
    return {"toy": -max(abs(a - b) for a, b in zip(predictions, references))}
'''
FILES = {
    "toy_weighting.py": WEIGHTING,
    "toy_sampling.py": SAMPLING,
    "toy_sharing.py": SHARING,
    "toy_trunk.py": TRUNK,
    "toy_task.py": TASK_TYPE,
    "toy_metric.py": METRIC,
    "toy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
    "toy-1.0.dist-info/entry_points.txt": "".join(
        f"[mtlcli.{group}]\ntoy = {module}\n"
        for group, module in {
            "weighting": "toy_weighting",
            "sampling": "toy_sampling",
            "sharing": "toy_sharing",
            "tasks": "toy_task",
            "metrics": "toy_metric",
        }.items()
    ),
}
TASK = """\
# @package tasks.length
# How long a text is
type: toy
source:
  files: {train: train.csv, validation: train.csv}
columns: {text: text, label: words}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the package, installed, and a task of its type."""
    rows = [f"{'word ' * count},{count}" for count in range(1, 17)]
    files = FILES | {
        "my_conf/task/length.yaml": TASK,
        "train.csv": "\n".join(["text,words", *rows]) + "\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def mtl(
    folder: Path, *arguments: str, then: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which finds the package on its path. `then`: the
    arguments of a second command in the same process."""
    code = f"from mtlcli.cli import main; raise SystemExit(main() or main({list(then)}))"
    return subprocess.run(
        [sys.executable, *(["-c", code] if then else ["-m", "mtlcli"]), *arguments],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_run_of_methods_of_another_package(folder: Path) -> None:
    done = mtl(
        folder,
        *("train", "-cd", "my_conf", "task=[length,rte]", "tasks.rte.source.kind=sample"),
        *("sharing=toy", "weighting=toy", "weighting.factor=3", "sampling=toy", "model=tiny"),
        *("model.layers=1", "model.hidden=16", "model.heads=2", "runner.batch_size=4"),
        *("runner.steps=3", "data.max_train_rows=16", "data.max_eval_rows=16", "logger.every=1"),
        *("data.cache_dir=cache", "run_dir=run"),
        then=["eval", "run", "--json", "again.json"],
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["tasks"]["length"]["main_metric"] == "toy"
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    steps = [row["tasks"] for row in rows if "tasks" in row]
    assert [[*tasks] for tasks in steps] == [["length"], ["rte"], ["length"]]
    assert steps[0]["length"]["weight"] == 3
    evaluated = json.loads((folder / "again.json").read_text())
    assert evaluated["tasks"]["length"]["main"] == results["tasks"]["length"]["main"]


def test_methods_of_another_package_are_listed_and_completed(folder: Path) -> None:
    listed = mtl(folder, "tasks")
    assert "weighting=toy" in listed.stdout, listed.stderr
    assert "Every loss times a factor" in listed.stdout
    assert mtl(folder, "--complete", "zsh", "train", "sharing=to").stdout == "sharing=toy \n"
    refused = mtl(folder, "train", "weighting=toi")
    assert refused.returncode == 2
    assert "did you mean 'toy'?" in refused.stderr


def test_a_package_that_cannot_be_imported_is_named(folder: Path) -> None:
    (folder / "toy_sampling.py").write_text("import nosuchmodule\n")
    done = mtl(folder, "train", "task=rte", "data=sample", "model=tiny")
    assert done.returncode == 2
    assert "entry point toy = toy_sampling of the group mtlcli.sampling" in done.stderr
    assert "No module named 'nosuchmodule'" in done.stderr
