"""RegMean: each linear map becomes the one whose outputs are closest to those of all runs.

Jin et al. 2023, "Dataless Knowledge Fusion by Merging Weights of Language Models". For the inputs
X_i (n x in) that the map has in run i, and its weights W_i (in x out), the least squares solution
is

    W = (sum_i G_i)^-1 sum_i G_i W_i      with G_i = X_i^T X_i

with the numbers of G_i off the diagonal multiplied by `shrink` (the paper's alpha, 0.9). All other
parameters are averaged. G_i is the mean over tokens, so that a run with longer texts has no larger
say. Difference: a small multiple of the mean weights is added to both sides, so that inputs that no
row uses leave the mean instead of a matrix that cannot be inverted.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mtlcli.merging.base import BACKBONE, Copies, State

RIDGE = 1e-6
"""The weight of the mean, relative to the mean diagonal number of the Gram matrices."""


def merge(copies: Copies, *, rows: int, shrink: float, seed: int) -> State:
    """Return the least squares weights of all linear maps, and the mean of the other weights."""
    assert copies.rows is not None
    merged = copies.mean()
    maps = linear_maps(copies.rows.model)
    grams = [grams_of(copies, run, maps, rows, seed) for run in range(len(copies.weights))]
    for name, module in maps.items():
        key = f"{name}.weight"

        def across(weight: Tensor, module: nn.Module = module) -> Tensor:
            """Turn weights as the library keeps them into (in, out), or back."""
            return weight if isinstance(module, Conv1D) else weight.T

        pairs = [
            (each[name], across(weights[key]))
            for each, weights in zip(grams, copies.weights, strict=True)
            if name in each
        ]
        if pairs:
            merged[key] = across(solved(pairs, across(merged[key]), shrink)).contiguous()
    return merged


def solved(pairs: list[tuple[Tensor, Tensor]], mean: Tensor, shrink: float) -> Tensor:
    """Return the weights (in, out) that fit the Gram matrices (in, in) and weights (in, out) of all
    runs best. `mean`: the mean of the weights."""
    size = len(mean)
    left = torch.zeros(size, size, dtype=torch.float64)
    right = torch.zeros(mean.shape, dtype=torch.float64)
    for gram, weights in pairs:
        shrunk = shrink * gram.double() + (1 - shrink) * torch.diag(gram.double().diagonal())
        left += shrunk
        right += shrunk @ weights.double()
    ridge = RIDGE * left.diagonal().mean().clamp(min=1e-30)
    left += ridge * torch.eye(size, dtype=torch.float64)
    return torch.linalg.solve(left, right + ridge * mean.double()).to(mean.dtype)


def linear_maps(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear maps of the backbone of a model, by the library's names."""
    return {
        name.removeprefix(BACKBONE): module
        for name, module in model.named_modules()
        if name.startswith(BACKBONE) and isinstance(module, nn.Linear | Conv1D)
    }


@torch.no_grad()
def grams_of(
    copies: Copies, run: int, maps: dict[str, nn.Module], rows: int, seed: int
) -> dict[str, Tensor]:
    """Return the mean over tokens of the outer products of the inputs of each linear map that a
    run uses: (in, in)."""
    assert copies.rows is not None
    source = copies.rows
    source.load(copies.weights[run])
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        states = inputs[0].detach().flatten(0, -2).double()
        sums[name] = sums.get(name, 0) + states.T @ states
        counts[name] = counts.get(name, 0) + len(states)

    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in maps.items()]
    try:
        for task, batch in source.of_run(run, rows, seed):
            source.model.encoded(task, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (each / counts[name]).cpu() for name, each in sums.items()}
