"""A few steps of training on small models, without a loop around them: for tests that compare
trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mtlcli.config import weightings
from mtlcli.data.batches import InputFormat
from mtlcli.data.features import Features
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import build_task_batch
from mtlcli.weighting.base import Step, Weighting
from mtlcli.weighting.losses.annealed import AnnealedTask
from tests.small import small_model

IMPORTANCE = {"cola": 1.0, "stsb": 0.5, "squad": 2.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "annealed": {"tasks": {"stsb": AnnealedTask(start=2.0, end=0.5)}},
    "dwa": {"every": 3},
    "gradnorm": {"first_steps": 3},
}
"""What shows a method at work within a few steps."""


def make(name: str, sharing: str = "hard", **options: Any) -> tuple[MultiTaskModel, Weighting]:
    """A small model and the weighting `name`, with unequal importance where that means
    something."""
    importance = None if weightings.configs[name].needs.unit_importance else IMPORTANCE
    return small_model(
        sharing, weighting=name, weights=importance, **(OPTIONS.get(name, {}) | options)
    )


def optimizer_of(model: MultiTaskModel, weighting: Weighting) -> torch.optim.Optimizer:
    """Plain SGD: Adam would blow up the last digit of gradients near zero."""
    groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": 0.02}]
    if weighting.parameters():
        groups.append({"params": weighting.parameters(), "lr": 0.02})
    return torch.optim.SGD(groups)


def train(
    model: MultiTaskModel,
    weighting: Weighting,
    optimizer: torch.optim.Optimizer,
    features: dict[str, Features],
    ranks: Ranks,
    steps: range,
    *,
    accumulation: int = 1,
) -> list[dict[str, float]]:
    """Train for `steps` on 9 examples a task; return each step's weights."""
    backward = Backward(model, weighting, ranks, bf16=False)
    used = []
    for number in steps:
        chosen = (np.arange(9) + 9 * number) % 60
        batches = {
            name: build_task_batch(
                model.tasks[name],
                features[name],
                chosen,
                input_format=InputFormat(0, True),
                accumulation=accumulation,
                ranks=ranks,
            )
            for name in model.tasks
        }
        step = Step(number=number, total=40, epoch=number // 4, seed=0, tasks=list(batches))
        optimizer.zero_grad(set_to_none=True)
        used.append(backward(batches, step).weights)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        weighting.observe(step)
        if weighting.losses_after_step:
            weighting.observe_after(step, backward.passes.losses(batches))
    return used
