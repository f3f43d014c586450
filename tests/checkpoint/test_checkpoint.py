"""Checkpoints: what is written is what is read, and what does not verify does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtlcli import checkpoint
from mtlcli.errors import UserError


def write(folder: Path, step: int) -> Path:
    weight = torch.arange(12.0).reshape(3, 4) + step
    # Two names for one tensor: tied weights are common.
    return checkpoint.write(folder, {"a": weight, "b": weight}, {"a/step": torch.tensor(float(step))}, {"step": step, "best_step": step})


def test_round_trip(tmp_path: Path) -> None:
    folder = write(tmp_path, 120)
    assert folder.name == "step_00000120"
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    found, skipped = checkpoint.newest(tmp_path)
    assert found.step == 120 and skipped == []
    assert torch.equal(found.tensors("model.safetensors")["b"], torch.arange(12.0).reshape(3, 4) + 120)
    assert found.tensors("optimizer.safetensors")["a/step"].item() == 120.0


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
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


def test_none_left_is_an_error(tmp_path: Path) -> None:
    (write(tmp_path, 10) / "state.json").unlink()
    with pytest.raises(UserError, match="no usable checkpoint; skipped step_00000010: state.json is missing"):
        checkpoint.newest(tmp_path)


def test_keep_deletes_the_others_only(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    (tmp_path / "notes").mkdir()
    checkpoint.keep(tmp_path, {10, 30})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step_00000010", "step_00000030"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        checkpoint.write(tmp_path, {}, {}, {"step": 1, "best_score": float("nan")})
    assert list(tmp_path.iterdir()) == []
