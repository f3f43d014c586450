"""A few steps of training on small models, without a loop around them: for tests that compare
trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mtlcli.config import weightings
from mtlcli.data.batches import InputFormat
from mtlcli.data.features import Features
from mtlcli.distributed.process_group import Ranks
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.shards import is_shard
from mtlcli.training.optim import Unfreezing
from mtlcli.training.step import Backward
from mtlcli.training.task_batch import build_inner_batches, build_task_batch
from mtlcli.weighting.base import Step, Weighting
from mtlcli.weighting.losses.annealed import AnnealedTask
from tests.small import small_model

IMPORTANCE = {"cola": 1.0, "stsb": 0.5, "squad": 2.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "annealed": {"tasks": {"stsb": AnnealedTask(start=2.0, end=0.5)}},
    "coba": {"warmup": 3, "window": 4},
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
    """Plain SGD: Adam would blow up the last digit of gradients near zero. Weights decay, which
    tells a gradient of zeros from none."""
    groups: list[dict[str, Any]] = [
        {"params": list(model.parameters()), "lr": 0.02, "weight_decay": 0.1}
    ]
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
    plan: Callable[[int], dict[str, int]] | None = None,
    probe: Callable[[int], bool] = lambda step: False,
    unfreeze_every: int | None = None,
    bf16: bool = False,
) -> list[dict[str, float]]:
    """Train for `steps`; return each step's weights. `plan`: the number of examples of each task in
    a step; None: 9 of all. `probe`: whether a step measures the gradients. `unfreeze_every`: see
    `optim.unfreeze_every`. `bf16`: the number format of products."""
    sharded = any(map(is_shard, model.parameters()))
    backward = Backward(model, weighting, ranks, bf16=bf16, together=not sharded)
    unfreezing = None if unfreeze_every is None else Unfreezing(model, unfreeze_every)
    used = []
    for number in steps:
        counts = dict.fromkeys(model.tasks, 9) if plan is None else plan(number)
        batches = {
            name: build_task_batch(
                model.tasks[name],
                features[name],
                (np.arange(count) + 9 * number) % 60,
                input_format=InputFormat(0, True),
                accumulation=accumulation,
                ranks=ranks,
                in_step=sharded,
            )
            for name, count in counts.items()
        }
        if (parts := weighting.config.inner_batches) > 1:
            for name, count in counts.items():
                batches[name].inner = build_inner_batches(
                    model.tasks[name],
                    features[name],
                    (np.arange(count) + 9 * number) % 60,
                    parts,
                    input_format=InputFormat(0, True),
                    accumulation=accumulation,
                    ranks=ranks,
                )
        step = Step(number=number, total=40, epoch=number // 4, seed=0, tasks=list(batches))
        if unfreezing is not None:
            unfreezing.apply(number)
        optimizer.zero_grad(set_to_none=True)
        if weighting.validates(step):
            weighting.observe_validation(step, backward.passes.losses(batches))
        fill = backward.probe if probe(number) else backward
        used.append(fill(batches, step).weights)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        weighting.observe(step)
        if weighting.losses_after_step:
            weighting.observe_after(step, backward.passes.losses(batches))
    return used
