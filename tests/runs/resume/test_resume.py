"""What stands around a resume: changed configurations and data, damaged checkpoints, two owners,
`auto`."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest

from mtlcli.cli.arguments import read_arguments
from mtlcli.cli.preflight import preflight
from mtlcli.errors import UserError
from mtlcli.rundir import checkpoint
from mtlcli.rundir.lock import FolderLock
from mtlcli.runner.job import run
from tests.small_run import SMALL, STEPS, differences, resume, start


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return start(tmp_path_factory.mktemp("resume") / "whole", "weighting=uncertainty")


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """The same run as it was after step 8."""
    folder = tmp_path / "broken"
    shutil.copytree(whole, folder)
    for each in checkpoint.folders(folder / "checkpoints"):
        if checkpoint.step_of(each) > 8:
            shutil.rmtree(each)
    return folder


def refused(place: Path, *options: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        resume(place, *options)
    return [str(problem).replace("\n    -> ", " -> ") for problem in caught.value.problems]


CHANGES = [
    ("optim.lr=0.01", "optim.lr: 0.001 -> 0.01 changes the result -> take it out, or type "
                      "'allow=[optim.lr]' to change it anyway"),
    ("optim.weight_decay=0.1", "optim.weight_decay: 0.01 -> 0.1 changes the result"),
    ("optim.schedule=cosine", "optim.schedule: linear -> cosine changes the result"),
    ("optim.clip=null", "optim.clip: 1.0 -> None changes the result"),
    ("runner.steps=32", "runner.steps: 16 -> 32 changes the result"),
    ("runner.batch_size=4", "runner.batch_size: 6 -> 4 changes the result"),
    ("runner.accumulation=1", "runner.accumulation: 2 -> 1: dropout drops other elements, which "
                              "changes the result"),
    ("runner.eval_every=4", "runner.eval_every: 5 -> 4 changes the result"),
    ("seed=1", "seed: 0 -> 1 changes the result"),
    ("tasks.cola.weight=2", "tasks.cola.weight: 1.0 -> 2.0 changes the result"),
    ("weighting.lr=0.1", "weighting.lr: 0.01 -> 0.1 changes the result"),
    ("data.max_train_rows=10", "data.max_train_rows: 20 -> 10 changes the result"),
    ("model.dropout=0", "model.dropout: 0.1 -> 0.0 changes the result"),
    ("sampling=all", "sampling.name: proportional -> all changes the result"),
    ("weighting=static", "weighting.name: uncertainty -> static cannot be changed in a run that "
                         "has begun -> take it out"),
    ("sharing=none", "sharing.name: hard -> none cannot be changed in a run that has begun"),
    ("model.hidden=32", "model.hidden: 16 -> 32 cannot be changed in a run that has begun"),
    ("task=[cola,stsb]", "tasks.rte: in the run -> None cannot be changed in a run that has begun"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "text"), CHANGES, ids=[option for option, _ in CHANGES])
def test_a_change_is_listed_and_refused(broken: Path, option: str, text: str) -> None:
    before = {
        path: path.read_bytes()
        for path in sorted(broken.rglob("*"))
        if path.is_file() and path.name != ".owner"
    }
    problems = refused(broken, option)
    assert any(problem.startswith(text) for problem in problems), problems
    assert {
        path: path.read_bytes()
        for path in sorted(broken.rglob("*"))
        if path.is_file() and path.name != ".owner"
    } == before


def test_an_allowed_change_is_applied_and_recorded(whole: Path, broken: Path) -> None:
    resume(broken, "optim.lr=0.01", "allow=[optim.lr]")
    assert any(text.startswith("model.safetensors") for text in differences(whole, broken))
    assert "lr: 0.01" in (broken / "config.yaml").read_text()
    (entry,) = json.loads((broken / "environment.json").read_text())["resumed"]
    assert entry["step"] == 8 and entry["changes"] == ["optim.lr: 0.001 -> 0.01"]


def test_keys_that_do_not_affect_the_result_may_change(whole: Path, broken: Path) -> None:
    resume(broken, "logger.every=3", "runner.keep=2", "runner.timeout=60")
    assert differences(whole, broken) == []
    assert len(checkpoint.folders(broken / "checkpoints")) <= 3


def test_allowing_an_unchanged_key_is_not_a_mistake_if_the_key_exists(
    whole: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(broken, "allow=[optim.rl]") == [
        "allow: the run has no key 'optim.rl' -> did you mean 'optim.lr'?"
    ]
    resume(broken, "optim.lr=0.001", "allow=[optim.lr]")
    assert "allow: optim.lr does not differ from the run's value" in capsys.readouterr().out
    assert differences(whole, broken) == []


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    whole: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = broken / "checkpoints" / "step_00000008" / "optimizer.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-7])
    resume(broken)
    assert "skipped step_00000008: optimizer.safetensors has" in capsys.readouterr().out
    assert differences(whole, broken) == []


def test_no_checkpoint_left_is_an_error_and_never_a_start_from_zero(broken: Path) -> None:
    for folder in checkpoint.folders(broken / "checkpoints"):
        (folder / "manifest.json").unlink()
    assert "no usable checkpoint" in refused(broken)[0]


def test_other_data_is_refused_and_named(whole: Path, broken: Path) -> None:
    environment = json.loads((broken / "environment.json").read_text())
    name, task = next(iter(environment["data"]["tasks"].items()))
    split, read = next(iter(task["splits"].items()))
    read["fingerprint"] = "0" * 64
    (broken / "environment.json").write_text(json.dumps(environment))
    what = f"task {name}: the rows are not the {split} split that the run has read"
    file = (
        f"{broken / 'environment.json'}: what it says of the data is not what step_00000008 was "
        "saved with (SHA-256)"
    )
    assert refused(broken) == [
        f"{file} -> bring the file back, or type 'allow=[environment.json]' to accept the change",
        f"{read['origin']}: {what} -> bring the data back as it was, or start another run",
    ]


def test_only_one_run_writes_into_a_folder(broken: Path) -> None:
    lock = FolderLock(broken)
    lock.take()
    try:
        (problem,) = refused(broken)
        assert "another run is writing here: process" in problem
    finally:
        lock.release()
    resume(broken)


def test_leftovers_of_a_kill_are_cleaned(whole: Path, broken: Path) -> None:
    for name in (".step_00000010.123.tmp", ".step_00000002.77.old"):
        (broken / "checkpoints" / name).mkdir()
    with (broken / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 99, "tas')
    resume(broken)
    assert differences(whole, broken) == []
    assert [
        path.name for path in (broken / "checkpoints").iterdir() if path.name.startswith(".")
    ] == []


def test_auto_starts_and_goes_on(whole: Path, tmp_path: Path) -> None:
    line = [*SMALL, "weighting=uncertainty", f"run_dir={tmp_path / 'run'}", "resume=auto"]

    def once() -> None:
        plan = preflight(read_arguments(line))
        run(plan.configs[0], tmp_path / "run", command=["mtl"], resumes=plan.resumes)

    once()
    assert differences(whole, tmp_path / "run") == []
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{STEPS:08d}")
    once()
    assert differences(whole, tmp_path / "run") == []


def test_auto_never_starts_from_zero_where_there_was_a_checkpoint(broken: Path) -> None:
    shutil.rmtree(broken / "checkpoints")
    (broken / "status.json").write_text('{"status": "running"}')
    before = (broken / "metrics.jsonl").read_bytes()
    plan = preflight(
        read_arguments([*SMALL, "weighting=uncertainty", f"run_dir={broken}", "resume=auto"])
    )
    for _ in range(2):
        with pytest.raises(UserError, match="the run has saved checkpoints, and there is none now"):
            run(plan.configs[0], broken, command=["mtl"], resumes=plan.resumes)
    assert (broken / "metrics.jsonl").read_bytes() == before


def test_checkpoints_that_cannot_be_written_are_named_at_once(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def file(dir: Path) -> io.BytesIO:  # noqa: A002
        if dir.name == "checkpoints":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))
        return io.BytesIO()

    monkeypatch.setattr("mtlcli.rundir.folder.tempfile.TemporaryFile", file)
    expected = (
        f"{broken / 'checkpoints'}: the folder cannot be written: Read-only file system -> "
        "mount it writable, then resume"
    )
    assert refused(broken) == [expected]


def test_auto_needs_a_run_dir() -> None:
    with pytest.raises(UserError, match="give run_dir=DIR"):
        preflight(read_arguments(["task=rte", "resume=auto"]))


def test_a_sweep_is_not_resumed(broken: Path) -> None:
    with pytest.raises(UserError, match="a sweep is resumed in its own folder"):
        preflight(read_arguments(["-m", f"resume={broken}", "seed=1,2"]))
