"""The size and the noise of a task's gradient, estimated from several of its training batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlcli.sampling.base import GradientNoise
from mtlcli.training.passes import Passes
from mtlcli.training.task_batch import TaskBatch


def measure_noise(passes: Passes, task: str, batches: Sequence[TaskBatch]) -> GradientNoise:
    """Measure a task's gradient of the shared parameters, over all ranks, on M batches of about
    equal size. With the gradients g_i of the batches,

        |g|^2    = (|sum_i g_i|^2 - sum_i |g_i|^2) / (M (M - 1))
        variance = (sum_i |g_i|^2 - |sum_i g_i|^2 / M) / (M - 1)

    both without bias. `.grad` is empty afterwards, and the weights are untouched.
    """
    total: list[Tensor] = []
    squares = 0.0
    for batch in batches:
        gradient = passes.shared_gradient(task, batch)
        squares += _square(gradient)
        if total:
            torch._foreach_add_(total, gradient)
        else:
            total = gradient
    count, together = len(batches), _square(total)
    return GradientNoise(
        square=(together - squares) / (count * (count - 1)),
        variance=(squares - together / count) / (count - 1),
    )


def _square(gradient: Sequence[Tensor]) -> float:
    """Return the squared norm of a gradient."""
    if not gradient:
        return 0.0
    return torch.stack([part.double().square().sum() for part in gradient]).sum().item()
