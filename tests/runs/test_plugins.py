"""The package in examples/plugin, installed as a user does, adds a method of each kind through
entry points, and `mtl` trains with them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import mtlcli
from tests.pinned import ENVIRONMENT

ROOT = Path(mtlcli.__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
METHODS = ["sharing=rescaled", "weighting=fade_in", "sampling=blocks"]
SMALL = [
    *("model=tiny", "model.layers=1", "model.hidden=16", "model.heads=2", "runner.batch_size=4"),
    *("runner.steps=6", "logger.every=1", "runner.threads=1", "runner.precision=fp32"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    # A build leaves files in its tree.
    shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip, "--no-index", "--target", folder / "packages", folder / "source"],
        check=True,
        capture_output=True,
        timeout=240,
    )
    return folder / "packages"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with the tasks of the example, and without the package: it would be found there."""
    for name in ("my_conf", "rows"):
        shutil.copytree(EXAMPLE / name, tmp_path / name)
    return tmp_path


def mtl(
    packages: Path, work: Path, *arguments: str, then: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in the folder `work`. `packages`: where the package is
    installed. `then`: the arguments of a second command in the same process."""
    code = f"from mtlcli.cli import main; raise SystemExit(main() or main({list(then)}))"
    return subprocess.run(
        [sys.executable, *(["-c", code] if then else ["-m", "mtlcli"]), *arguments],
        cwd=work,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_run_of_methods_of_another_package(packages: Path, work: Path) -> None:
    done = mtl(
        packages,
        work,
        *("train", "-cd", "my_conf", "task=[length,polite]", *METHODS, *SMALL),
        *("weighting.start=0.5", "weighting.main=length", "run_dir=run", "data.cache_dir=cache"),
        then=["eval", "run", "--json", "again.json"],
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((work / "run" / "results.json").read_text())
    assert results["tasks"]["length"]["main_metric"] == "within_one"
    rows = [json.loads(line) for line in (work / "run" / "metrics.jsonl").open()]
    steps = [row["tasks"] for row in rows if "tasks" in row]
    assert [[*tasks] for tasks in steps] == [
        *([["length"]] * 2),
        *([["polite"]] * 2),
        *([["length"]] * 2),
    ]
    weights = [next(iter(tasks.values()))["weight"] for tasks in steps]
    assert weights == pytest.approx([1, 1, 0.5 + 0.5 * 2 / 3, 1, 1, 1])
    assert rows[-1]["sharing"]["moved"]["length"] > 0
    evaluated = json.loads((work / "again.json").read_text())
    assert evaluated["tasks"]["length"]["main"] == results["tasks"]["length"]["main"]


def test_methods_of_another_package_are_listed_completed_and_checked(
    packages: Path, work: Path
) -> None:
    listed = mtl(packages, work, "tasks")
    assert "weighting=fade_in" in listed.stdout, listed.stderr
    assert "The main task at once" in listed.stdout
    completed = mtl(packages, work, "--complete", "zsh", "train", "sharing=re")
    assert completed.stdout == "sharing=rescaled \n"
    refused = mtl(packages, work, "train", "weighting=fade_inn")
    assert refused.returncode == 2
    assert "did you mean 'fade_in'?" in refused.stderr


def test_a_package_that_cannot_be_imported_is_named(packages: Path, work: Path) -> None:
    shutil.copytree(packages, work / "packages")
    (work / "packages" / "mtl_example" / "blocks.py").write_text("import nosuchmodule\n")
    done = mtl(work / "packages", work, "train", "task=rte", "data=sample", "model=tiny")
    assert done.returncode == 2
    assert "entry point blocks = mtl_example.blocks of the group mtlcli.sampling" in done.stderr
    assert "No module named 'nosuchmodule'" in done.stderr
