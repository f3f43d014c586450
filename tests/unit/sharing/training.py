"""A bare training loop, for the limits in which one strategy becomes another."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from mtlcli.data.batches import Batch, InputFormat, collate
from mtlcli.data.features import Features
from mtlcli.models.multitask import MultiTaskModel
from tests.small import small_data, small_model


@cache
def _features() -> dict[str, Features]:
    return small_data()[2]


def batch_of(task: str, start: int = 0, size: int = 8) -> Batch:
    """Some sample rows of a task of `small_data`."""
    return collate(
        _features()[task],
        np.arange(start, start + size),
        input_format=InputFormat(0, True),
        denominator=float(size),
    )


def trained(
    sharing: Any, *, steps: int = 8, trunk_lr: float = 0.002
) -> tuple[MultiTaskModel, list[float]]:
    """The model after some steps of plain gradient descent on the sum of all losses and the
    penalty, and the losses of all tasks in each.

    `sharing`: a strategy's name or its config.
    """
    model, _ = small_model(sharing)
    groups = [
        {"params": list(model.trunk.parameters()), "lr": trunk_lr},
        {"params": list(model.heads.parameters()), "lr": 0.002},
    ]
    optimizer = torch.optim.SGD(groups)
    found = []
    for step in range(steps):
        optimizer.zero_grad()
        for task in model.tasks:
            loss = model(task, batch_of(task, 8 * (step % 4))).loss
            loss.backward()
            found.append(loss.item())
        penalty = model.penalty()
        if penalty is not None:
            penalty.backward()
        optimizer.step()
    return model, found
