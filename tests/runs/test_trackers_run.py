"""Runs that trackers follow: every step is told once, also where a run goes back and resumes, and a
tracker that fails or hangs stops nothing."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mtlcli.trackers import tracking
from mtlcli.trackers.csv_files import CsvFiles
from mtlcli.trackers.wandb import Wandb
from tests.small_run import STEPS, differences, resume, start

FOUND = [name for name in tracking.CLASSES if name == "csv" or find_spec(name) is not None]
BACK = "checkpoints/step_00000008"
"""The checkpoint from which the run resumes, although all trackers know its later steps."""
LOGGED = [*range(3, STEPS, 3), STEPS]
SCORED = [*range(5, STEPS, 5), STEPS]


def needs(name: str) -> None:
    if name not in FOUND:
        pytest.skip(f"{name} is not installed: pip install 'mtlcli[{name}]'")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody follows."""
    return start(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with every tracker that is installed, which has gone back and trained the second half
    again."""
    base = tmp_path_factory.mktemp("followed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"file:{base}/mlflow")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("WANDB_MODE", "offline")
        run = start(base / "run", f"logger.trackers=[{','.join(FOUND)}]")
        resume(run / BACK)
        yield run


def test_trackers_change_no_number(plain: Path, followed: Path) -> None:
    assert differences(plain, followed) == []


def test_the_run_says_where_to_look(followed: Path) -> None:
    log = (followed / "log.txt").read_text()
    assert "tracker" not in log and "only a part" not in log
    assert f"csv: {followed}/csv\n" in log
    known = json.loads((followed / "trackers.json").read_text())
    assert sorted(known) == sorted(FOUND)
    assert all((each["metrics"], each["scores"]) == (STEPS, STEPS) for each in known.values())


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv(followed: Path) -> None:
    folder = followed / "csv"
    metrics = rows(folder / "metrics.csv")
    assert [int(row["step"]) for row in metrics] == LOGGED
    written = [json.loads(line) for line in (followed / "metrics.jsonl").read_text().splitlines()]
    for row, line in zip(metrics, written, strict=True):
        assert float(row["lr"]) == line["lr"]
        for task in ("cola", "stsb", "rte"):
            loss = line["tasks"].get(task, {}).get("loss")
            assert row[f"loss/{task}"] == ("" if loss is None else str(loss))
    scores = rows(folder / "evaluations.csv")
    assert [int(row["step"]) for row in scores] == SCORED
    results = json.loads((followed / "results.json").read_text())
    best = next(row for row in scores if int(row["step"]) == results["step"])
    assert float(best["validation/average"]) == results["average"]
    table = {row["task"]: row["score"] for row in rows(folder / "results.csv")}
    assert table.pop("average") == str(results["average"])
    assert table == {name: str(task["main"]) for name, task in results["tasks"].items()}
    config = {row["key"]: row["value"] for row in rows(folder / "config.csv")}
    assert config["runner.steps"] == str(STEPS)
    files = {row["name"]: Path(row["path"]) for row in rows(folder / "files.csv")}
    assert files["results.json"] == followed / "results.json"
    assert files["best_checkpoint"].is_dir()


def test_tensorboard(followed: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(followed / "tensorboard"))
    events.Reload()
    assert [each.step for each in events.Scalars("lr")] == LOGGED
    assert [each.step for each in events.Scalars("validation/average")] == SCORED
    assert {"config/text_summary", "results/text_summary"} <= set(events.Tags()["tensors"])


def test_mlflow(followed: Path) -> None:
    needs("mlflow")
    import mlflow

    client = mlflow.MlflowClient(f"file:{followed.parent}/mlflow")
    (run,) = client.search_runs([client.get_experiment_by_name("mtl").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert [each.step for each in client.get_metric_history(run.info.run_id, "lr")] == LOGGED
    scores = client.get_metric_history(run.info.run_id, "validation/average")
    assert [each.step for each in scores] == SCORED
    assert run.data.params["runner.steps"] == str(STEPS)
    assert run.data.tags["mtl.files.best_checkpoint"].startswith(str(followed / "checkpoints"))
    files = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert files >= {"config.yaml", "results.json", "metrics.jsonl", "results.md"}


def test_wandb(followed: Path) -> None:
    needs("wandb")
    from wandb.proto import wandb_internal_pb2

    told: list[dict[str, Any]] = []
    names = set()
    for file in sorted(followed.glob("wandb/offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                names.add(record.run.run_id)
            if record.HasField("history"):
                told.append(
                    {
                        item.key or "/".join(item.nested_key): json.loads(item.value_json)
                        for item in record.history.item
                    }
                )
    assert len(names) == 1
    assert [row["step"] for row in told if "lr" in row] == LOGGED
    assert [row["step"] for row in told if "validation/average" in row] == SCORED


def records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format behind 7 bytes of W&B's own. W&B has no
    reader in Python."""
    block, place, parts = 32768, 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            yield parts
            parts = b""


def test_a_tracker_that_fails_is_named_and_catches_up(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: CsvFiles, step: int, values: dict[str, float]) -> None:
        raise OSError("the share is away")

    with monkeypatch.context() as broken:
        broken.setattr(CsvFiles, "metrics", fail)
        run = start(tmp_path / "run", "logger.trackers=[csv]")
    log = (run / "log.txt").read_text()
    said = "the tracker csv failed, and the run goes on without it: OSError: the share is away"
    assert log.count(said) == 1 and "in fail" in log
    assert log.endswith("warning: csv has only a part of this run\n")
    assert differences(plain, run) == []
    resume(run / BACK)
    assert [int(row["step"]) for row in rows(run / "csv" / "metrics.csv")] == LOGGED


def test_a_tracker_that_hangs_is_left_behind(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(CsvFiles, "scores", lambda *_: answer.wait())
    monkeypatch.setitem(tracking.PATIENCE, "finished", 0.1)
    run = start(tmp_path / "run", "logger.trackers=[csv]")
    assert (
        (run / "log.txt")
        .read_text()
        .endswith("warning: csv has only a part of this run: it did not answer within 0 s\n")
    )
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert differences(plain, run) == []
    answer.set()


def test_wandb_does_not_ask_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("wandb")
    from mtlcli.trackers.base import About

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="there is no API key: type wandb login"):
        Wandb().open(About(tmp_path, None, "", {}), "", None)
