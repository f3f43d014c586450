"""What lies beside a checkpoint and belongs to it: the config, the backbone's files, the record of
the data, the rows of metrics."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mtlcli.errors import UserError
from mtlcli.evaluation.saved_run import evaluate_path
from mtlcli.rundir import checkpoint
from tests.small_run import cut_off, differences, resume, start
from tests.warm import mtl


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 16 steps."""
    return start(
        tmp_path_factory.mktemp("beside") / "whole", "weighting=uncertainty", "logger.every=1"
    )


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    """The same run as it was after step 8."""
    return cut_off(whole, "step_00000008", tmp_path / "broken")


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert re.search(old, text), old
        return re.sub(old, new, text, count=1)

    return change


def without_fingerprints(text: str) -> str:
    content = json.loads(text)
    for task in content["data"]["tasks"].values():
        task["splits"] = {}
    return json.dumps(content)


CHANGES: dict[str, tuple[str, Callable[[str], str], str]] = {
    "learning rate": (
        "config.yaml",
        replaced(r"  lr: 0\.001\n  lr_factor", "  lr: 0.009\n  lr_factor"),
        "optim.lr",
    ),
    "batch size": ("config.yaml", replaced("batch_size: 6", "batch_size: 4"), "runner.batch_size"),
    "half a config": ("config.yaml", lambda text: text[: len(text) // 2], "config.yaml"),
    "activation": ("backbone/backbone.json", replaced('"gelu"', '"relu"'), "backbone.json"),
    "two tokens": ("backbone/tokenizer.json", replaced(r'"\[CLS\]"', '"[CLT]"'), "tokenizer.json"),
    "the record of the data": ("environment.json", without_fingerprints, "environment.json"),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_changes_by_hand_are_named_and_refused(broken: Path, name: str) -> None:
    file, change, named = CHANGES[name]
    (broken / file).write_text(
        change((broken / file).read_text(encoding="utf-8")), encoding="utf-8"
    )
    with pytest.raises(UserError) as caught:
        resume(broken)
    assert named in str(caught.value)
    if file != "environment.json":
        done = mtl("eval", str(broken))
        assert done.returncode == 2 and named in done.stderr, done.stderr


def test_a_run_of_an_earlier_version_goes_on_under_the_new_name(tmp_path: Path) -> None:
    """`weighting=conflict_free` was called `config`: in config.yaml and in each checkpoint's."""
    whole = start(tmp_path / "whole", "weighting=conflict_free", "sampling=all")
    broken = cut_off(whole, "step_00000008", tmp_path / "broken")
    old = replaced("  name: conflict_free\n", "  name: config\n")
    for folder in (broken, *checkpoint.folders(broken / "checkpoints")):
        text = old((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(text)
        if (file := folder / "manifest.json").is_file():
            manifest = json.loads(file.read_text())
            digest = hashlib.sha256(text.encode()).hexdigest()
            manifest["files"]["config.yaml"] = {"size": len(text), "sha256": digest}
            file.write_text(json.dumps(manifest))
    evaluate_path(broken)
    resume(broken)
    assert differences(whole, broken) == []


ROWS: dict[str, Callable[[list[str]], list[str]]] = {
    "empty": lambda rows: [],
    "zeros": lambda rows: ["\0" * 200],
    "a row lost": lambda rows: rows[:3] + rows[4:],
}


@pytest.mark.parametrize("name", list(ROWS))
def test_missing_metrics_rows_are_reported(broken: Path, name: str) -> None:
    file = broken / "metrics.jsonl"
    file.write_text("".join(f"{row}\n" for row in ROWS[name](file.read_text().splitlines())))
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        resume(broken)
    assert checkpoint.folders(broken / "checkpoints")[-1].name == "step_00000008", (
        "nothing was removed or added"
    )


def test_duplicate_metrics_rows_are_reported_and_removed(
    whole: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = broken / "metrics.jsonl"
    file.write_text("".join(f"{row}\n{row}\n" for row in file.read_text().splitlines()))
    capsys.readouterr()
    resume(broken)
    assert "metrics.jsonl" in capsys.readouterr().out
    assert differences(whole, broken) == []


def test_an_allowed_but_impossible_change_leaves_nothing_behind(broken: Path) -> None:
    before = {
        path: path.read_bytes()
        for path in sorted(broken.rglob("*"))
        if path.is_file() and path.name != ".owner"
    }
    with pytest.raises(
        UserError,
        match="runner.steps: the run would end at step 4, and the checkpoint that it goes on from "
        "is of step 8",
    ):
        resume(
            broken, "runner.steps=4", "optim.schedule=cosine", "allow=[runner.steps,optim.schedule]"
        )
    after = {
        path: path.read_bytes()
        for path in sorted(broken.rglob("*"))
        if path.is_file() and path.name != ".owner"
    }
    assert after == before


def test_a_checkpoint_that_cannot_be_read_is_kept(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = checkpoint.folders(broken / "checkpoints")[-1]
    opened = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self.parent == newest and self.name == "model.safetensors":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="cannot be read"):
        resume(broken)
    assert (newest / "model.safetensors").exists()
