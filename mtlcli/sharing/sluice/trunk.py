"""Sluice networks: cross-stitch over subspaces, subspaces kept apart, and heads that read a mixture
of layers.

Ruder et al. 2019, "Latent Multi-task Architecture Learning". The channels of every task's states
are cut into G subspaces, and a unit mixes all of them, of all tasks: [x_1,1; ...; x_K,G] <- alpha
[x_1,1; ...; x_K,G], alpha of K G x K G blocks times the identity. The penalty strength * sum over
tasks and layers of ||G_1^T G_2||_F^2 keeps the subspaces of a layer from holding the same; G_g are
the columns of a matrix that make subspace g, so that G_1^T G_2 has the products of every channel of
one with every channel of the other: (channels / G) x (channels / G). Task k reads sum_l beta_k,l
x_k,l over its layers.

The authors' code starts alpha with all weights alike, or with most of the weight on one subspace.
Here what a subspace does not keep of its own comes from the same subspace of the other tasks, and
nothing from other channels, which mean something else. So the model starts as cross-stitch, and
pretrained states come through as they are. In the authors' code the penalty is an option, whose
strength neither the code nor the paper gives; the default here is 1e-3, and 0 leaves the penalty
out.

With one subspace, no penalty and beta on the last layer alone, the model is cross-stitch; if all
alpha are the same as well, it is hard sharing.

The paper's layers are LSTMs, and the constraint is on their weights; here it is on the matrix with
which a layer's feed-forward block writes to the states. The layers are those with copies; all tasks
share the embeddings, as with cross-stitch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import HasAuxiliaryLoss, ParameterTable
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.cross_stitch.trunk import Stitched, start
from mtlcli.sharing.sluice import SluiceSharing


class Layers(nn.Module):
    """The weights beta of one task for its layers."""

    def __init__(self, count: int, last: float) -> None:
        super().__init__()
        self.beta = nn.Parameter(start(count, last)[-1])

    def forward(self, states: list[Tensor]) -> Tensor:
        """Return the weighted sum of the layers' states, (batch, length, hidden) each."""
        return (self.beta.view(-1, 1, 1, 1) * torch.stack(states)).sum(0).to(states[-1].dtype)


class Sluice(Stitched, HasAuxiliaryLoss):
    """K copies of the layers with units over their subspaces, and a mixture of layers for each
    task."""

    def __init__(
        self, config: SluiceSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        backbone = make_backbone()
        if backbone.hidden % config.subspaces:
            raise UserError(
                f"{backbone.hidden} channels cannot be cut into {config.subspaces} equal parts",
                where="sharing.subspaces",
                fix="type a number that divides the model's width, for example 2",
            )
        super().__init__(config, lambda: backbone, owners, subspaces=config.subspaces)
        self.strength = config.orthogonality
        self.layers = PerTask(
            {owner: Layers(len(self.placed), config.last) for owner in self.heads}
        )
        self.placed[max(self.placed)].finish_with(
            lambda passing: self.layers[passing.owner](passing.states)
        )

    def penalty(self) -> Tensor | None:
        """Return the auxiliary loss: the overlap of the subspaces times `sharing.orthogonality`, a
        scalar; None if there is nothing to add."""
        return self.strength * self._overlap() if self.strength and self.subspaces > 1 else None

    def _overlap(self) -> Tensor:
        terms = []
        for layer in self.placed.values():
            parts = layer.output_matrices().chunk(self.subspaces, -1)
            terms += [(one.mT @ other).square().sum() for one, other in combinations(parts, 2)]
        return torch.stack(terms).sum()

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. The weights of layers, like the units, have a learning
        rate of their own."""
        table = super().parameter_table()
        table.change(self.layers.parameters(), lr=self.config.lr)
        return table

    def measures(self) -> dict[str, Any]:
        """Return `mixing` as cross-stitch does; `layers`: each task's weights of its layers; and,
        with several subspaces, `overlap`: the value that the penalty multiplies."""
        betas = {
            owner: [round(weight, 4) for weight in each.beta.tolist()]  # type: ignore[operator]
            for owner, each in self.layers.items()
        }
        with torch.no_grad():
            overlap = {"overlap": float(self._overlap())} if self.subspaces > 1 else {}
        return super().measures() | {"layers": betas} | overlap
