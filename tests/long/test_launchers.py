"""Sweeps whose jobs Hydra's plugins start, in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.ddp.test_two_ranks import losses
from tests.warm import mtl

JOBS = ["train", "-m", "task=rte", "data=sample", "model=tiny", "runner.steps=4", "seed=0,1"]
JOBS += ["data.max_train_rows=60", "data.max_eval_rows=20", "runner.threads=1"]
JOBS += ["runner.device=cpu", "runner.precision=fp32"]


@pytest.fixture(scope="module")
def one_after_another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("basic") / "sweep"
    done = mtl(*JOBS, f"run_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("launcher", ["ray", "submitit_local"])
def test_a_launcher_runs_the_same_jobs(
    launcher: str, one_after_another: Path, tmp_path: Path
) -> None:
    if launcher == "ray":
        pytest.importorskip("ray", reason="the extra ray is not installed")
    folder = tmp_path / "sweep"
    command = [*JOBS, f"hydra/launcher={launcher}", f"run_dir={folder}"]
    dry = mtl(*command, "sweep.dry_run=true")
    assert dry.returncode == 0, dry.stderr
    assert f"2 jobs of 2 would run in {folder} with hydra/launcher={launcher}" in dry.stdout
    assert not folder.exists()
    done = mtl(*command)
    assert done.returncode == 0, done.stderr
    for job in ("0_seed-0", "1_seed-1"):
        assert losses(folder / job) == losses(one_after_another / job)
    more = mtl(*command, "seed=0,1,2", "resume=auto")
    assert more.returncode == 0, more.stderr
    assert "3 jobs, the best average first" in more.stdout
    assert sorted(path.parent.name for path in folder.glob("*/results.json")) == [
        "0_seed-0",
        "1_seed-1",
        "2_seed-2",
    ]
