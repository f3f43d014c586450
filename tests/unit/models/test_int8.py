"""Matrices in 8 bits with every sharing strategy: what is computed, and what a file holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlcli.config import sharings
from mtlcli.data.batches import Batch
from mtlcli.distributed.process_group import Ranks
from mtlcli.fast import accelerate
from mtlcli.models.build import build_model, check_weights, restore_weights, without_numbers
from mtlcli.models.int8 import fit_device, quantise, stored
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.precision import input_format
from mtlcli.training.task_batch import build_task_batch
from tests.small import SmallConfig, small_data, small_model

pytest.importorskip("torchao", reason="matrices in 8 bits need mtlcli[int8]")
CPU = torch.device("cpu")
CLOSE = 0.02
"""How far outputs may be from those in fp32, relative to the largest: a factor is rounded by up to
1/254 of the largest in its row, and the layers add up."""


def batches() -> dict[str, Batch]:
    tasks, _, features, files = small_data()
    layout = input_format(files.encoder(), "fp32", CPU)
    return {
        name: build_task_batch(
            task,
            features[name],
            np.arange(4),
            input_format=layout,
            accumulation=1,
            ranks=Ranks(0, 1, CPU),
        ).micro[0]
        for name, task in tasks.items()
    }


@torch.no_grad()
def outputs(model: MultiTaskModel) -> Tensor:
    model.eval()
    found = [
        each.flatten()
        for name, batch in batches().items()
        for each in model.outputs(name, batch).values()
    ]
    return torch.cat(found)


@pytest.mark.parametrize("sharing", sorted(sharings.configs))
def test_every_strategy(sharing: str) -> None:
    model, _ = small_model(sharing, fast=False)
    expected, whole = outputs(model), model.state_dict()
    size = sum(each.nbytes for each in whole.values())
    count = quantise(model)
    if sharing in ("cross_stitch", "sluice"):
        assert count == 0, "the weights of copies lie side by side, in no linear map"
        return
    tensors = {name: each.clone() for name, each in stored(model.state_dict()).items()}
    assert sum(each.nbytes for each in tensors.values()) < 0.95 * size
    assert sum(each.dtype == torch.int8 for each in tensors.values()) >= count

    config: Any = SmallConfig(sharing)
    tasks, _, _, files = small_data()
    files = replace(files, int8=True)
    check_weights(without_numbers(config, tasks, files), tensors, Path("folder"))
    torch.manual_seed(1)
    again = build_model(config, tasks, files)
    restore_weights(again, tensors, Path("folder"))
    plain = outputs(again)
    assert torch.equal(plain, outputs(model))
    accelerate(again, config, CPU, "fp32")
    found = outputs(again)
    scale = expected.abs().max()
    assert 1e-5 < (plain - expected).abs().max() / scale < CLOSE
    assert (found - expected).abs().max() / scale < CLOSE


def test_seven_bits_where_products_of_eight_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = small_model("hard", fast=False)
    expected = outputs(model)
    quantise(model)
    fine = outputs(model)
    monkeypatch.setattr("torchao.utils.should_reduce_range", lambda device: True)
    fit_device(model, CPU)
    largest = max(
        int(each.abs().max())
        for each in stored(model.state_dict()).values()
        if each.dtype == torch.int8
    )
    assert largest <= 64
    coarse = outputs(model)
    errors = [(each - expected).abs().max() / expected.abs().max() for each in (fine, coarse)]
    assert errors[0] < errors[1] < 2 * CLOSE
