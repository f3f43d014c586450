"""Adapter modules that sharing strategies put beside the layers of a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from mtlcli.models.backbone import Backbone
from mtlcli.models.layers import Layer, chosen_layers, layer_list


class Bottleneck(nn.Module):
    """The bottleneck up(gelu(down(x))) of an adapter, which is added to hidden states; 0 at the
    start."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, size)
        self.up = nn.Linear(size, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the change of the hidden states: (..., hidden) -> (..., hidden)."""
        change: Tensor = self.up(nn.functional.gelu(self.down(hidden)))
        return change


def adapt(
    backbone: Backbone,
    layers: Sequence[int] | Literal["all"],
    place: Callable[[nn.Module], Layer],
    *,
    frozen: bool,
) -> None:
    """Replace each layer that `layers` (`sharing.layers`) chooses by `place(layer)`. `frozen`: the
    backbone is not trained.

    Raises UserError when a layer does not exist.
    """
    if frozen:
        backbone.requires_grad_(False)
    there = layer_list(backbone.network)
    for number in chosen_layers(layers, len(there), "sharing.layers"):
        there[number] = place(there[number])
