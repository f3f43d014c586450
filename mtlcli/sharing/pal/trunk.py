"""Projected attention layers: in parallel to each layer a narrow attention for each task.

Stickland & Murray 2019, "BERT and PALs". With h what goes into a layer, its output becomes

    layer(h) + V_D attention(V_E h)

where V_E (hidden -> size) and V_D (size -> hidden) of a task are the same in all layers, and the
attention, without an output matrix, is the layer's own. V_D starts at zero, so that at the start
the backbone's output is unchanged; the authors' V_D starts at random.

Differences from the paper and its code:
- The paper adds this inside the last layer norm of BERT's layer; here it is added behind the layer,
  so that every architecture has a place for it.
- The authors' code puts a GELU behind V_D, gives V_E and V_D biases, and has dropout on the
  attention's weights. Here there are none of these: V_D and V_E are the plain matrices of the
  paper's formula.
- The paper's attention is 204 wide beside the 768 channels of BERT-base. The default here is 96
  wide: as large a share of the 384 channels of MiniLM. The paper trains the backbone too, and so
  does the default here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.pal import PALSharing
from mtlcli.sharing.parts.layers import Layer, hidden_into, hidden_of, replace_layers, with_hidden


class PAL(Trunk):
    """One backbone, frozen or not, with attention of each task in parallel to its layers."""

    unmergeable = "a projected attention layer stands beside each layer"

    joint = True
    new_tasks = True

    def __init__(
        self, config: PALSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self.backbone = make_backbone()
        hidden, causal = self.backbone.hidden, self.backbone.causal
        self.encoders = PerTask(
            {name: nn.Linear(hidden, config.size, bias=False) for name in self.heads}
        )
        self.decoders = PerTask(
            {name: nn.Linear(config.size, hidden, bias=False) for name in self.heads}
        )
        for decoder in self.decoders.values():
            nn.init.zeros_(decoder.weight)  # type: ignore[arg-type]

        def place(layer: nn.Module) -> ParallelLayer:
            attentions = PerTask(
                {name: Attention(config.size, config.heads, causal=causal) for name in self.heads}
            )
            return ParallelLayer(layer, self.encoders, attentions, self.decoders)

        replace_layers(self.backbone, config.layers, place, frozen=config.frozen)


class Attention(nn.Module):
    """Multi-head attention without an output matrix."""

    def __init__(self, size: int, heads: int, *, causal: bool) -> None:
        """`causal`: whether a token sees only itself and the tokens before it."""
        super().__init__()
        self._heads, self._causal = heads, causal
        self.project = nn.Linear(size, 3 * size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the attended states, (batch, length, size), for states of the same shape. `mask`:
        (batch, length), True where there is a token to see."""
        batch, length, size = states.shape
        query, key, value = (
            self.project(states)
            .view(batch, length, 3, self._heads, size // self._heads)
            .permute(2, 0, 3, 1, 4)
        )
        visible = mask[:, None, None, :]
        if self._causal:
            visible = (
                visible & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
            )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return mixed.transpose(1, 2).reshape(batch, length, size)


class ParallelLayer(Layer):
    """A layer, and in parallel to it the task's attention."""

    def __init__(
        self, layer: nn.Module, encoders: PerTask, attentions: PerTask, decoders: PerTask
    ) -> None:
        super().__init__(layer)
        self.inner, self.attentions = layer, attentions
        # In a tuple, so that torch does not register them in each layer: they belong to the trunk,
        # and all its layers use them.
        self._projections = encoders, decoders

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output, with the task's attention added to the hidden states."""
        hidden, passing = hidden_into(inputs, more), current(ForwardPass)
        encoders, decoders = self._projections

        def attend(owner: str, states: Tensor, mask: Tensor) -> Tensor:
            change: Tensor = decoders[owner](self.attentions[owner](encoders[owner](states), mask))
            return change

        change = passing.each(attend, hidden, passing.mask)
        output = self.inner(*inputs, **more)
        return with_hidden(output, hidden_of(output) + change)
