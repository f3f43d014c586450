"""Task attention: a shared backbone, and for each task soft masks over its features.

Liu et al. 2019, "End-to-End Multi-Task Learning with Attention" (MTAN), in the form of a
transformer. At each chosen layer, with u the shared states that go into it and p those that come
out, a task has a mask of its own for every token and feature:

    m = sigmoid(up(relu(norm(down([u; s])))))        s' = m * p

s is the task's state at the chosen layer below; at the lowest there is none, and the mask looks at
u alone. The shared states go upwards unmasked. From the highest chosen layer on, the task's state
takes their place, and passes through whatever stands above: layers that were not chosen, the final
norm, the pooler, the head.

In place of the paper's convolutions, which are as wide as the features, there are linear maps
through a bottleneck (`size`), since otherwise the masks of a task would be as large as a quarter of
BERT's layers. In place of its batch norm there is layer norm, which needs no batch. The paper also
passes a task's features through a shared convolution between blocks, to fit them to the next
block's width; all layers here have one width, so there is none. Masks begin near OPEN at every
feature, so that pretrained features come through as they are; where all masks are 1 the model is
that of `hard`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.attention import AttentionSharing
from mtlcli.sharing.parts.layers import (
    Layer,
    chosen_layers,
    hidden_into,
    hidden_of,
    layer_list,
    with_hidden,
)

OPEN = 0.9
"""Value of the masks at the start, except for the small random weights that tell features apart."""


class Mask(nn.Module):
    """A task's mask at a layer, through a bottleneck."""

    def __init__(self, width: int, size: int, hidden: int, std: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.norm = nn.LayerNorm(size)
        self.up = nn.Linear(size, hidden)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(self.down.bias)
        nn.init.constant_(self.up.bias, math.log(OPEN / (1 - OPEN)))

    def forward(self, states: Tensor) -> Tensor:
        """Return the mask (batch, length, hidden), between 0 and 1, for states (batch, length,
        width)."""
        return torch.sigmoid(self.up(torch.relu(self.norm(self.down(states)))))


@dataclass
class Branch(ForwardPass):
    """A pass that also holds the state of the batch's task on the way up."""

    state: Tensor | None = None
    """The task's state (batch, length, hidden) at the highest chosen layer passed so far; None
    before the first."""


class MaskedLayer(Layer):
    """A shared layer, and a mask of each task over its output."""

    def __init__(self, layer: nn.Module, masks: PerTask, *, top: bool) -> None:
        """`top`: whether the task's state goes on from here in the place of the shared states."""
        super().__init__(layer)
        self.layer = layer
        self.masks = masks
        self._names = list(masks)
        self._top = top
        self.register_buffer("mean", torch.full((len(masks),), OPEN))

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output; at the top, with the task's state in the place of the shared
        states."""
        branch = current(Branch)
        below = hidden_into(inputs, more)
        output = self.layer(*inputs, **more)
        states = hidden_of(output)
        mask = branch.each(
            self._mask,
            below if branch.state is None else torch.cat([below, branch.state], -1),
            branch.mask.float(),
        )
        branch.state = mask.to(states.dtype) * states
        return with_hidden(output, branch.state) if self._top else output

    def _mask(self, owner: str, states: Tensor, tokens: Tensor) -> Tensor:
        """`tokens`: (batch, length), 1 where there is a token, 0 where there is padding."""
        mask: Tensor = self.masks[owner](states)
        if self.training:
            with torch.no_grad():
                self.mean[self._names.index(owner)] = (
                    mask.float().mean(-1) * tokens
                ).sum() / tokens.sum()
        return mask


class Attention(Trunk):
    """The backbone of `hard`, whose features every head sees through masks of its own."""

    unmergeable = (
        "the task's attention modules choose among the states of all layers for each token"
    )

    joint = True
    packs = True

    def __init__(
        self,
        config: AttentionSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        """Raises UserError when a layer does not exist or the network does not keep its layers
        apart."""
        super().__init__(owners)
        self.backbone = make_backbone()
        layers = layer_list(self.backbone.network)
        chosen = chosen_layers(config.layers, len(layers), "sharing.layers")
        hidden, std = self.backbone.hidden, self.backbone.initializer_range
        self._masked: list[tuple[int, MaskedLayer]] = []
        for number in chosen:
            width = hidden if number == chosen[0] else 2 * hidden
            masks = PerTask({owner: Mask(width, config.size, hidden, std) for owner in self.heads})
            masked = MaskedLayer(layers[number], masks, top=number == chosen[-1])
            layers[number] = masked
            self._masked.append((number, masked))

    def begin(self, task: str, batch: Batch) -> Branch:
        """Return the pass of a batch, in which no mask has been applied."""
        return Branch(self.parts(task, batch), batch.attention_mask)

    def measures(self) -> dict[str, Any]:
        """Return `masks`: for each head and chosen layer, by number, the mean of the mask over the
        tokens of the head's newest batch in training."""
        means = {
            number: dict(zip(self.heads, masked.mean.tolist(), strict=True))
            for number, masked in self._masked
        }
        return {
            "masks": {
                owner: {str(number): means[number][owner] for number in means}
                for owner in self.heads
            }
        }
