"""AdaMerging: learn a scale for each task vector and each tensor, by which the predictions of the
merged model become certain.

Yang et al. 2024, "AdaMerging: Adaptive Model Merging for Multi-Task Learning", layer-wise:

    theta^l = theta_0^l + sum_i scale_i^l (theta_i^l - theta_0^l)

where the scales, between 0 and 1, minimise the entropy of the predictions for rows without labels,
by Adam (betas 0.9 and 0.999), 16 rows of each task in an update. As in the authors' code, a layer l
is one tensor of the model. Differences: the rows are those of the train splits, without their
labels, where the authors take those of the test splits, so that no reported row is seen; 100
updates instead of 500. Only classes have an entropy: tasks of other types are refused.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from mtlcli.merging.base import BACKBONE, Copies, State

BATCH = 16
"""Rows of each task in an update."""


def merge(copies: Copies, *, scale: float, steps: int, lr: float, rows: int, seed: int) -> State:
    """Return the initial weights and the task vectors, each tensor with the scale that was
    learned. `scale`: where the scales begin."""
    assert copies.rows is not None and copies.base is not None
    model, vectors = copies.rows.model, copies.vectors
    place = next(model.parameters()).device
    base = {name: tensor.to(place) for name, tensor in copies.base.items()}
    stacked = {
        name: torch.stack([each[name] for each in vectors]).to(place)
        for name, tensor in base.items()
        if tensor.is_floating_point()
    }
    scales = {
        name: torch.full((len(vectors),), scale, device=place, requires_grad=True)
        for name in stacked
    }
    optimizer = torch.optim.Adam(list(scales.values()), lr=lr)

    def merged() -> State:
        return base | {
            name: base[name] + torch.einsum("r,r...->...", scales[name].clamp(0, 1), each)
            for name, each in stacked.items()
        }

    batches = copies.rows.batches(rows, BATCH, seed)
    for _, step in zip(range(steps), batches, strict=False):
        weights = {BACKBONE + name: tensor for name, tensor in merged().items()}
        losses = [
            entropy(functional_call(model, weights, (task, batch)).outputs["logits"])
            for task, batch in step
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return {name: tensor.detach().cpu() for name, tensor in merged().items()}


def entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of predictions: (batch, classes) -> scalar."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
