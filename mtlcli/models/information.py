"""The diagonal of the empirical Fisher information of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def mean_squared_gradients(
    parameters: Mapping[str, Tensor], losses: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Return the mean over losses, each a scalar of one row, of their squared gradients, for each
    parameter; 0 where no loss depends on it. The losses are asked for one by one."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.to_dense() ** 2
        count += 1
    return {name: each / max(count, 1) for name, each in sums.items()}
