"""Folders that nobody has named: those of one second get one each, and what is not used goes
away."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtlcli.cli import train
from mtlcli.cli.preflight import Plan
from mtlcli.cli.sweep import LISTED, _remove_unused, make_folder
from mtlcli.errors import UserError
from mtlcli.rundir.folder import RunFolder
from tests.warm import start


def be_noon() -> None:
    """Stop the clock by which folders are named."""
    train.datetime = SimpleNamespace(now=lambda: datetime(2026, 1, 31, 12))  # type: ignore[misc]


def test_runs_of_the_same_second_get_a_folder_each(tmp_path: Path) -> None:
    options = [
        "task=wnli",
        "data=sample",
        "model=tiny",
        "runner.steps=1",
        "runner.device=cpu",
        "data.max_eval_rows=20",
    ]
    options += [f"data.cache_dir={tmp_path / 'cache'}"]
    runs = [
        start("train", *options, f"seed={seed}", before=be_noon, cwd=tmp_path) for seed in range(2)
    ]
    assert [run.wait() for run in runs] == [0, 0], [run.stderr for run in runs]
    name = "2026-01-31_12-00-00_wnli_hard_static"
    folders = sorted((tmp_path / "runs").iterdir())
    assert [folder.name for folder in folders] == [name, f"{name}_2"]
    seeds = [json.loads((folder / "environment.json").read_text())["seed"] for folder in folders]
    assert sorted(seeds) == [0, 1]


def test_a_name_is_tried_by_making_it(tmp_path: Path) -> None:
    made = [RunFolder(tmp_path / "runs" / "x") for _ in range(3)]
    for folder in made:
        folder.create(numbered=True)
    assert [folder.path.name for folder in made] == ["x", "x_2", "x_3"]
    assert made[1].log == tmp_path / "runs" / "x_2" / "log.txt"


def test_folders_of_runs_that_did_not_start_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b" / "run")
    folder.create()
    (folder.path / "log.txt").write_text("hello")
    folder.discard_unused()
    assert list(tmp_path.iterdir()) == []
    folder.create()
    (folder.path / "metrics.jsonl").touch()
    folder.discard_unused()
    assert folder.path.is_dir(), "the run has begun"


def test_a_folder_that_another_run_has_filled_is_never_discarded(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="not empty"):
        folder.create()
    folder.discard()
    assert (tmp_path / "run" / "config.yaml").exists()


def test_sweeps_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan([], [], [SimpleNamespace(run_dir=None, resume=None)], None, None)
    first, second = make_folder(plan), make_folder(plan)
    assert first != second and (first / LISTED).read_text() == (second / LISTED).read_text() == ""

    chosen = Plan(
        ["hydra.sweep.dir='my sweep'"], [], [SimpleNamespace(run_dir=None, resume=None)], None, None
    )
    folder = make_folder(chosen)
    assert folder == Path("my sweep")
    with pytest.raises(UserError, match="not empty"):
        make_folder(chosen)
    _remove_unused(folder)
    assert not folder.exists(), "no job of it began"

    (first / LISTED).write_text('{"number": 0}\n')
    _remove_unused(first)
    assert first.exists()
