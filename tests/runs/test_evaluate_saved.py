"""A run folder that is read again: which checkpoint, which splits, and what has changed since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlcli.errors import RunError, UserError
from mtlcli.evaluation.best_checkpoint import find
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.rundir import checkpoint
from tests.warm import mtl


def save(run: Path, step: int, best: int) -> Path:
    return checkpoint.write(
        run / "checkpoints",
        {"w": torch.full((2,), float(step))},
        {},
        {"step": step, "best_step": best},
    )


def test_a_checkpoint_that_goes_away_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    save(tmp_path, 1, best=1)
    # All of the model is in memory: what the run does with the folder later is nothing to an
    # evaluation.
    found = find(tmp_path)
    shutil.rmtree(found.checkpoint.folder)
    assert found.tensors["w"].tolist() == [1.0, 1.0]
    save(tmp_path, 1, best=1)
    reads = checkpoint.Checkpoint.tensors

    def rotate(self: checkpoint.Checkpoint, name: str) -> Any:
        if self.step == 1:
            save(tmp_path, 2, best=2)
            shutil.rmtree(self.folder)
        return reads(self, name)

    def vanish(path: Path) -> Any:
        save(tmp_path, 3, best=3)
        shutil.rmtree(tmp_path / "checkpoints" / "step_00000001")
        monkeypatch.undo()
        raise RuntimeError(f"unable to open file <{path}> in read-only mode")

    monkeypatch.setattr("safetensors.torch.load_file", vanish)
    assert find(tmp_path).tensors["w"].tolist() == [3.0, 3.0]
    shutil.rmtree(tmp_path / "checkpoints")
    save(tmp_path, 1, best=1)
    monkeypatch.setattr(checkpoint.Checkpoint, "tensors", rotate)
    assert find(tmp_path).tensors["w"].tolist() == [2.0, 2.0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with own files, three splits of them, and the run of a task on them beside one of
    the sample world."""
    folder = tmp_path_factory.mktemp("place")
    for split, count in (("train", 60), ("dev", 30), ("test", 20)):
        rows = [
            f"{split}{row},the film was {'good' if row % 3 else 'bad'} "
            f"{row},{'good' if row % 3 else 'bad'}"
            for row in range(count)
        ]
        (folder / f"{split}.csv").write_text("\n".join(["id,review,stars", *rows, ""]))
    (folder / "conf" / "task").mkdir(parents=True)
    (folder / "conf" / "task" / "mine.yaml").write_text(
        "# @package tasks.mine\ntype: classification\ncolumns: {text: review, label: stars}\n"
        "source: {files: {train: train.csv, validation: dev.csv, test: test.csv, test_2: "
        "test.csv}}\n"
    )
    options = [
        "data.max_eval_rows=12",
        "runner.steps=2",
        "runner.device=cpu",
        "runner.precision=fp32",
        "logger.console=plain",
    ]
    done = mtl(
        "train",
        "-cd",
        "conf",
        "task=[mine,rte,squad]",
        "data=sample",
        "model=tiny",
        *options,
        "run_dir=run",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "mixed: mine from local: files of its own; rte, squad from sample: data.source=sample"
        in done.stdout
    )
    assert (
        "rows drawn at random (seed 0): mine validation 12 of 30; rte validation 12 of 300; squad "
        "validation 12 of 400" in done.stdout
    )
    return folder


def test_own_files_and_sample_tasks_in_one_run(place: Path) -> None:
    results = json.loads((place / "run" / "results.json").read_text())
    assert results["data_source"] == "mixed"
    assert {name: entry["source"] for name, entry in results["tasks"].items()} == {
        "mine": "local",
        "rte": "sample",
        "squad": "sample",
    }
    environment = json.loads((place / "run" / "environment.json").read_text())["data"]["tasks"]
    assert {name: entry["source"] for name, entry in environment.items()} == {
        "mine": "local",
        "rte": "sample",
        "squad": "sample",
    }


def test_a_file_beyond_train_and_validation_is_a_split(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    said: list[str] = []
    results = evaluate_path(place / "run", split="test", predictions=place / "p", say=said.append)
    assert "no split 'test', left out: squad" in said
    assert "mine: --split test is test; for the other one type --split test_2" in said
    assert list(results["tasks"]) == ["mine", "rte"] and results["tasks"]["mine"]["rows"] == {
        "test": {"used": 20, "of": 20}
    }
    assert results["tasks"]["mine"]["main"] is not None and results["tasks"]["rte"]["main"] is None
    lines = [json.loads(line) for line in (place / "p" / "mine.jsonl").read_text().splitlines()]
    assert [(line["row"], line["id"], line["gold"]) for line in lines][:2] == [
        (1, "test0", "bad"),
        (2, "test1", "good"),
    ]


def test_nothing_that_the_run_needs_is_overwritten(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "mine.jsonl").write_text("{}\n")
    for options in (
        {"scores_file": Path("dev.csv")},
        {"scores_file": Path("run/config.yaml")},
        {"scores_file": Path("run/checkpoints/step_00000002/manifest.json")},
        {"predictions": Path(), "overrides": ["tasks.mine.source.files.validation=mine.jsonl"]},
    ):
        with pytest.raises(UserError, match="would be overwritten"):
            evaluate_path(place / "run", tasks=["mine"], **options)
    (place / "mine.jsonl").unlink()


def test_scores_equal_those_of_training_and_changed_rows_are_reported(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    said: list[str] = []
    folder = find(place / "run").checkpoint.folder
    with monkeypatch.context() as patched:
        # Nothing of the checkpoint is read later: the run may have removed it by then.
        patched.setattr(
            "mtlcli.evaluation.saved_run.find",
            lambda path: (find(path), folder.rename(place / "gone"))[0],
        )
        results = evaluate_path(place / "run", say=said.append)
    (place / "gone").rename(folder)
    assert results["tasks"] == json.loads((place / "run" / "results.json").read_text())["tasks"]
    assert not any("warning" in line for line in said)
    # The same bytes elsewhere are the same rows; other rows in the old place are not.
    (place / "dev.csv").rename(place / "moved.csv")
    moved = "tasks.mine.source.files.validation=moved.csv"
    assert evaluate_path(place / "run", overrides=[moved])["tasks"] == results["tasks"]
    (place / "dev.csv").write_text((place / "moved.csv").read_text().replace("film", "play"))
    said = []
    evaluate_path(place / "run", tasks=["mine"], say=said.append)
    assert [line for line in said if "warning" in line] == [
        "warning: dev.csv: task mine: the rows are not the validation split that the run has read"
    ]


def test_an_unreadable_record_is_reported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    file = place / "run" / "environment.json"
    content = file.read_text()
    file.write_text("")
    said: list[str] = []
    evaluate_path(
        place / "run", tasks=["mine"], overrides=["allow=[environment.json]"], say=said.append
    )
    assert any(
        line.startswith(f"warning: {file}: ") and "it is unknown whether the rows" in line
        for line in said
    ), said
    file.write_text(content)


def test_scores_are_shown_before_predictions_are_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "taken" / "mine.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match="mine.jsonl is a folder, not a file"):
        evaluate_path(place / "run", tasks=["mine"], predictions=place / "taken")
    (place / "later" / "squad.json").mkdir(parents=True)
    shown: list[dict[str, Any]] = []
    with pytest.raises(RunError, match="the predictions cannot be written: Is a directory"):
        evaluate_path(
            place / "run",
            tasks=["squad"],
            predictions=place / "later",
            overrides=["data.max_eval_rows=4"],
            show=shown.append,
        )
    assert shown[0]["tasks"]["squad"]["examples"] == 4


def test_keys_without_effect_are_refused(place: Path) -> None:
    for overrides, text in (
        (
            ["data.root=/tmp"],
            "data.root: the value has no effect: rows come from data.source=sample",
        ),
        (["data.max_train_rows=3"], "data.max_train_rows: the value has no effect on validation"),
        (
            ["tasks.mine.source.hub=x"],
            "tasks.mine.source.hub: the value has no effect: rows come from source.files",
        ),
        (
            ["tasks.squad.source.hub=x"],
            "tasks.squad.source.hub: the value has no effect: task squad is not evaluated",
        ),
        (
            ["tasks.rte.splits.test=x"],
            "tasks.rte.splits.test: the value has no effect: --split validation does not read it",
        ),
        (
            ["text.predict=calibrated"],
            "text.predict: the value has no effect: no task is in the form of text",
        ),
    ):
        with pytest.raises(UserError) as caught:
            evaluate_path(place / "run", tasks=["mine", "rte"], overrides=overrides)
        assert str(caught.value).startswith(text)
