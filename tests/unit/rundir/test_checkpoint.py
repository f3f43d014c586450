"""Checkpoints: what is written is what is read, and what does not verify does not exist."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlcli.errors import UserError
from mtlcli.rundir import checkpoint
from mtlcli.rundir.checkpoint import rotation


def write(folder: Path, step: int) -> Path:
    weight = torch.arange(12.0).reshape(3, 4) + step
    # Two names for one tensor: tied weights are common.
    state = {"step": step, "best_step": step}
    return checkpoint.write(
        folder,
        {"a": weight, "b": weight},
        {"a/step": torch.tensor(float(step))},
        state,
        config="seed: 0\n",
    )


def test_round_trip(tmp_path: Path) -> None:
    folder = write(tmp_path, 120)
    assert folder.name == "step_00000120"
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.yaml",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    found, skipped = checkpoint.newest(tmp_path)
    assert found.step == 120 and skipped == []
    assert torch.equal(
        found.tensors("model.safetensors")["b"], torch.arange(12.0).reshape(3, 4) + 120
    )
    assert found.tensors("optimizer.safetensors")["a/step"].item() == 120.0


@pytest.mark.parametrize(
    "file",
    ["model.safetensors", "optimizer.safetensors", "state.json", "config.yaml", "manifest.json"],
)
@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "remove"])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path: Path, file: str, damage: str) -> None:
    write(tmp_path, 10)
    target = write(tmp_path, 20) / file
    content = target.read_bytes()
    if damage == "remove":
        target.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        target.write_bytes({"truncate": content[:-3], "empty": b"", "flip": flipped}[damage])
    found, skipped = checkpoint.newest(tmp_path)
    assert found.step == 10
    assert len(skipped) == 1 and "step_00000020" in skipped[0]
    with pytest.raises(UserError, match="cannot be used"):
        checkpoint.read(tmp_path / "step_00000020")


def test_no_usable_checkpoint_is_an_error(tmp_path: Path) -> None:
    (write(tmp_path, 10) / "state.json").unlink()
    with pytest.raises(
        UserError, match="no usable checkpoint; skipped step_00000010: state.json is missing"
    ) as caught:
        checkpoint.newest(tmp_path)
    assert "train the run again in a new folder" in caught.value.problems[0].fix
    with pytest.raises(UserError, match="no usable checkpoint\n") as caught:
        checkpoint.newest(tmp_path / "none")
    assert caught.value.problems[0].fix == "give the folder of a run that saved one"


def test_a_misspelt_run_folder_has_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "firs.txt").touch()
    for name, fix in (("fisrt", f"did you mean {tmp_path / 'first'}?"), ("x", "give a folder")):
        with pytest.raises(UserError, match="there is no such folder") as caught:
            checkpoint.run_of(tmp_path / name)
        assert caught.value.problems[0].fix.startswith(fix)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rotation_deletes_earlier_checkpoints_only(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        write(tmp_path, step)
    (tmp_path / "notes").mkdir()
    rotation.retain(tmp_path, 40, 1, best=20)
    assert names(tmp_path) == ["notes", "step_00000020", "step_00000040", "step_00000050"]


def test_later_checkpoints_are_set_aside_and_go_unless_they_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    assert rotation.set_aside(tmp_path, 10) == [
        tmp_path / f"set_aside_step_000000{step}" for step in (20, 30)
    ]
    write(tmp_path, 20)
    assert rotation.set_aside(tmp_path, 10) == [tmp_path / "set_aside_step_00000020_2"]
    unreadable(monkeypatch, tmp_path / "set_aside_step_00000030" / "model.safetensors")
    (line,) = rotation.drop_aside(tmp_path)
    assert line.endswith("step_00000030 is kept: model.safetensors: Stale file handle")
    assert names(tmp_path) == ["set_aside_step_00000030", "step_00000010"]
    monkeypatch.undo()
    assert rotation.drop_aside(tmp_path) == []
    assert names(tmp_path) == ["step_00000010"]


def unreadable(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """As on a share that is away."""
    plain = io.open

    def opened(name: Any, *arguments: Any, **options: Any) -> Any:
        if name == file:
            raise OSError(errno.ESTALE, "Stale file handle", str(file))
        return plain(name, *arguments, **options)

    monkeypatch.setattr(io, "open", opened)


def test_a_checkpoint_that_cannot_be_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 10)
    unreadable(monkeypatch, write(tmp_path, 20) / "model.safetensors")
    with pytest.raises(UserError) as caught:
        checkpoint.newest(tmp_path)
    (problem,) = caught.value.problems
    assert (
        problem.what == "model.safetensors cannot be read: Stale file handle"
        and problem.where.endswith("step_00000020")
    )


def test_one_of_two_checkpoints_survives_an_interrupted_replacement(tmp_path: Path) -> None:
    write(tmp_path, 10).rename(tmp_path / ".step_00000010.7.old")
    write(tmp_path, 20).rename(tmp_path / ".step_00000020.7.old")
    (tmp_path / ".step_00000020.7.old" / "state.json").unlink()
    (tmp_path / ".step_00000010.8.tmp").mkdir()
    rotation.clean(tmp_path)
    assert (
        names(tmp_path) == ["step_00000010"]
        and checkpoint.fault(tmp_path / "step_00000010") is None
    )


def test_the_previous_format_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, 10)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["run"], manifest["files"]["config.yaml"]
    (folder / "config.yaml").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    found = checkpoint.read(folder)
    assert found.around is None and found.config is None


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        checkpoint.write(tmp_path, {}, {}, {"step": 1, "best_score": float("nan")})
    assert list(tmp_path.iterdir()) == []
