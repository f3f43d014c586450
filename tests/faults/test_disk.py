"""A disk that takes no more: the error says where, how much was needed and what is free; earlier checkpoints stay."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlcli import checkpoint
from mtlcli.errors import RunError
from mtlcli.runner.saver import Saver

MODEL = {"weight": torch.arange(3_000_000.0)}
STATE = {"step": 20, "best_step": None}


def full(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the `at`-th flush on, the disk is full."""
    calls = [0]
    real = os.fsync

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_a_full_disk_at_every_file_of_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    checkpoint.write(tmp_path, MODEL, {}, STATE | {"step": 10})
    full(at, monkeypatch)
    saver = Saver(tmp_path, keep=1)
    saver.save(MODEL, {}, STATE, best=None)
    with pytest.raises(RunError) as caught:
        saver.wait()
    text = str(caught.value)
    assert "step_00000020: the checkpoint cannot be written: No space left on device (needs 11.4 MB, free are" in text
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000010"]
    assert checkpoint.newest(tmp_path)[0].step == 10


def test_a_tensor_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    bad: dict[str, Any] = {"fine": torch.ones(2), "broken": torch.tensor([1.0, float("inf")])}
    with pytest.raises(RunError, match="not saved: broken is not finite"):
        checkpoint.write(tmp_path, bad, {}, STATE)
    assert list(tmp_path.iterdir()) == []
