"""The last layer for the first token alone, where nobody reads what it gives for others.

Heads with one output per input read the pooled vector. Where that is made from the first token ([CLS]), the last layer needs the keys and
values of all tokens, and everything else of one: of a layer's matrix products a sixth. The numbers are the same.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LAYERS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "CamembertLayer", "ElectraLayer")
"""Layers of the transformers library that are made of the same parts as BERT's."""


class FirstToken:
    """What is mixed into a layer's class: with `first_token`, the layer gives (batch, 1, hidden)."""

    def forward(
        self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *inputs: Any, first_token: bool = False, **more: Any
    ) -> Tensor:
        """(batch, length, hidden) states and what masks of the chosen attention are."""
        if not first_token:
            states: Tensor = super().forward(hidden_states, attention_mask, *inputs, **more)  # type: ignore[misc]
            return states
        attention = self.attention.self
        first = hidden_states[:, :1]

        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:-1], -1, attention.attention_head_size).transpose(1, 2)

        plain = sys.modules[type(attention).__module__].eager_attention_forward
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, plain)
        attended, _ = attend(
            attention,
            heads(attention.query(first)),
            heads(attention.key(hidden_states)),
            heads(attention.value(hidden_states)),
            None if attention_mask is None else attention_mask[..., :1, :],
            dropout=attention.dropout.p if self.training else 0.0,
            scaling=attention.scaling,
        )
        given: Tensor = self.feed_forward_chunk(self.attention.output(attended.reshape(first.shape), first))
        return given


def can_skip(network: nn.Module) -> bool:
    """Whether the last layer of a network can leave tokens out. If so, it now takes `first_token`."""
    layers = [module for module in network.modules() if type(module).__name__ in LAYERS and not module.is_decoder]
    for last in layers[-1:]:
        # Its class, not a module around it: names of parameters, copies and what strategies look for in a layer stay as they are.
        last.__class__ = type(type(last).__name__, (FirstToken, type(last)), {})
    return bool(layers)
