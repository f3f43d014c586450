"""Soft parameter sharing: every task has copies of its own, and a penalty pulls them together.

Duong et al. 2015, "Low Resource Dependency Parsing": the squared distance between two parsers'
weights; for K tasks the sum over all pairs. Trace norm: Yang & Hospedales 2017, "Trace Norm
Regularised Deep Multi-Task Learning". Distance to the pretrained weights: Li et al. 2018, "Explicit
Inductive Bias for Transfer Learning" (L2-SP).

With lambda 0 the copies are those of `none`. The penalty is part of the loss, so its gradient
passes through Adam; the decoupled weight decay acts beside it, on each copy alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import HasAuxiliaryLoss, Merges, Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.models.shards import part, sum_of_parts
from mtlcli.sharing.parts.layers import Layer, chosen_layers, layer_list
from mtlcli.sharing.soft import SoftSharing

EPS = 1e-12
"""Number that keeps the square root of the trace norm differentiable where the copies are equal,
relative to their mean squared norm."""


class TaskLayer(Layer):
    """A layer with a copy for every task."""

    def __init__(self, layer: nn.Module, owners: Sequence[str]) -> None:
        """All copies start from the weights of `layer`, which itself is the first copy."""
        super().__init__(layer)
        self.copies = PerTask.copies(layer, owners)

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the output of the copy of the batch's task."""
        return self.copies[current(ForwardPass).owner](*inputs, **more)


class Soft(Trunk, HasAuxiliaryLoss, Merges):
    """A copy of the backbone, or of some of its layers, for each head. All start from the same
    weights."""

    packs = True
    first_token = True

    def __init__(
        self, config: SoftSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self.config = config
        first = make_backbone()
        if config.layers == "all":
            self.backbones = PerTask.copies(first, self.heads)
        else:
            self.backbone = first
            layers = layer_list(first.network)
            for number in chosen_layers(config.layers, len(layers), "sharing.layers"):
                layers[number] = TaskLayer(layers[number], self.heads)
        if config.distance == "pretrained":
            # Buffers are part of the checkpoint: a resumed run does not read the pretrained weights
            # again.
            for index, each in enumerate(self._copies):
                self.register_buffer(f"start{index}", each[0].detach().clone())

    @cached_property
    def _copies(self) -> list[tuple[nn.Parameter, ...]]:
        """The copies of each parameter. They are looked up when they are first used, since shards
        may have taken the places of the parameters until then (`runner.engine=fsdp`)."""
        places = (
            [self.backbones]
            if self.config.layers == "all"
            else [module.copies for module in self.modules() if isinstance(module, TaskLayer)]
        )
        return [
            copies
            for place in places
            for copies in zip(*(copy.parameters() for copy in place.values()), strict=True)
        ]

    def backbone_of(self, task: str) -> Backbone:
        """Return the backbone with the task's own copies."""
        found: Any = (
            self.backbones[self.owners[task]] if self.config.layers == "all" else self.backbone
        )
        return found

    def merged(self, task: str) -> Backbone:
        """Return the task's own copy of the backbone, or a copy that has the task's own layers."""
        if self.config.layers == "all":
            return self.backbone_of(task)
        backbone = deepcopy(self.backbone)
        layers = layer_list(backbone.network)
        for number, layer in enumerate(layers):
            if isinstance(layer, TaskLayer):
                layers[number] = layer.copies[self.owners[task]]
        return backbone

    def penalty(self) -> Tensor | None:
        """Return the auxiliary loss, lambda times the distance that the config names, in fp32:
        scalar; None if there is nothing to add. Its cost grows with the number of tasks, not with
        the number of pairs."""
        if self.config.strength == 0 or (
            len(self.heads) < 2 and self.config.distance != "pretrained"
        ):
            return None
        return self.config.strength * self._distance()

    def measures(self) -> dict[str, Any]:
        """Return `distance`: the value that the penalty multiplies, and `relative`: the same as a
        share of the copies' squared norms."""
        with torch.no_grad():
            size = sum(
                float(part(parameter).square().sum()) for each in self._copies for parameter in each
            )
            both = torch.tensor(
                [float(self._distance()), size],
                dtype=torch.float64,
                device=self._copies[0][0].device,
            )
            distance, size = sum_of_parts(both, self._copies[0][0]).tolist()
        return {"distance": distance, "relative": distance / size}

    def _distance(self) -> Tensor:
        if self.config.distance == "trace_norm":
            return trace_norm(self._copies)
        if self.config.distance == "pretrained":
            return distance_to(
                [self.get_buffer(f"start{index}") for index in range(len(self._copies))],
                self._copies,
            )
        return distance_of_pairs(self._copies)


Copies = Sequence[tuple[Tensor, ...]]
"""For each parameter, its copies: K tensors of the same shape."""


def distance_of_pairs(copies: Copies) -> Tensor:
    """Return the sum of squared distances of every two tasks' copies (Duong et al.): scalar. Where
    copies are shards, the distance of this rank's shards, whose gradient is the shard of the
    gradient."""
    # The sum over pairs of ||a - b||^2 is K times the sum of squared distances to the mean.
    return (
        len(copies[0])
        * torch.stack([_Spread.apply(None, *map(part, each)) for each in copies]).sum()
    )


def distance_to(starts: Sequence[Tensor], copies: Copies) -> Tensor:
    """Return the sum of squared distances of all copies to the weights at the start (Li et al.):
    scalar."""
    return torch.stack(
        [_Spread.apply(start, *each) for start, each in zip(starts, copies, strict=True)]
    ).sum()


def trace_norm(copies: Copies) -> Tensor:
    """Return the sum of the trace norms of the stacked copies (Yang & Hospedales): scalar."""
    return torch.stack(
        [_singular_values_sum(torch.stack([copy.flatten() for copy in each])) for each in copies]
    ).sum()


class _Spread(torch.autograd.Function):
    """The sum of squared distances of copies to a centre, or to their mean; scalar.

    The penalty passes over all copies at every step, and its cost is memory, so the gradient, 2
    (copy - centre), is written by hand. The mean itself adds no gradient, because the differences
    to the mean sum to zero.
    """

    @staticmethod
    def forward(ctx: Any, centre: Tensor | None, *copies: Tensor) -> Tensor:
        if centre is None:
            centre = sum(copies[1:], copies[0]) / len(copies)
        ctx.differences = [copy - centre for copy in copies]
        return torch.stack(
            [torch.linalg.vector_norm(difference).square() for difference in ctx.differences]
        ).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(2 * gradients[0] * difference for difference in ctx.differences)


def _singular_values_sum(rows: Tensor) -> Tensor:
    """Return the sum of the singular values of (K, n) rows, computed from their K x K Gram matrix;
    scalar.

    The gradient G^(-1/2) rows is written by hand: an eigendecomposition has no gradient where
    eigenvalues coincide, as they do when all copies are equal.
    """
    with torch.no_grad():
        gram = (rows @ rows.T).double()
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp(min=0) + EPS * gram.diagonal().mean().clamp(min=1e-30)
        inverse = ((vectors / values.sqrt()) @ vectors.T).to(rows.dtype)
        norm = values.sqrt().sum().to(rows.dtype)
        direction = inverse @ rows
    surrogate = (direction * rows).sum()
    return norm + surrogate - surrogate.detach()
