"""The mean weighted by the diagonal of each run's Fisher information.

Matena & Raffel 2022, "Merging Models with Fisher-Weighted Averaging":

    theta = sum_i F_i theta_i / sum_i F_i      with F_i = E[(d log p(y | x) / d theta_i)^2]

As in the authors' code, each F_i is divided by its L2 norm, so that no run has more to say because
its losses are larger, and F_i is at least 1e-6 before that. Differences: the expectation is over
the labels of the rows (the empirical Fisher information), where the authors sum over all classes,
so that every type of task can be merged; the least value holds for each run, where theirs holds for
a target model alone.
"""

from __future__ import annotations

import torch

from mtlcli.merging.base import BACKBONE, Copies, State
from mtlcli.models.information import mean_squared_gradients

FLOOR = 1e-6
"""The least weight of a number, before the weights of a run are normalised."""


def merge(copies: Copies, *, rows: int, seed: int) -> State:
    """Return the mean of the weights, weighted by each run's Fisher information."""
    total: State = {}
    weighted: State = {}
    for number, weights in enumerate(copies.weights):
        found = information(copies, number, rows, seed)
        norm = torch.sqrt(sum(((each**2).sum() for each in found.values()), torch.zeros(())))
        for name, tensor in weights.items():
            weight = found.get(name, torch.zeros_like(tensor)).clamp(min=FLOOR) / norm.clamp(
                min=FLOOR
            )
            total[name] = total.get(name, 0) + weight
            weighted[name] = weighted.get(name, 0) + weight * tensor
    return {name: weighted[name] / total[name] for name in weighted}


def information(copies: Copies, run: int, rows: int, seed: int) -> State:
    """Return the mean squared gradient of the loss of a row, for each parameter of a run's
    backbone."""
    assert copies.rows is not None
    source = copies.rows
    source.load(copies.weights[run])
    parameters = {
        name.removeprefix(BACKBONE): parameter
        for name, parameter in source.model.named_parameters()
        if name.startswith(BACKBONE)
    }
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    losses = (source.model(*of_task).loss for of_task in source.of_run(run, rows, seed))
    return {name: each.cpu() for name, each in mean_squared_gradients(parameters, losses).items()}
