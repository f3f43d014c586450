"""Cheaper ways to compute layers like BERT's, with the same result: the last layer where heads read
only the first token, and dropout in attention on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

LAYERS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "CamembertLayer", "ElectraLayer")
"""Classes of layers in the transformers library that are made of the same parts as BERT's."""

PLAIN = "plain_products"
"""Name under which `attend` is registered with transformers."""


def bert_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers of an encoder like BERT, in order; an empty list for any other network."""
    return [
        module
        for module in network.modules()
        if type(module).__name__ in LAYERS and not module.is_decoder
    ]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention as the library's `eager` does, but with the layer's own dropout module,
    which may be a cheap one; `eager` draws bits by itself.

    `query`, `key`, `value`: (batch, heads, length, size). Returns the attended values (batch,
    length, heads, size) and the attention weights (batch, heads, length, length).
    """
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = module.dropout(torch.softmax(weights, -1))
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(PLAIN, attend)
AttentionMaskInterface.register(PLAIN, eager_mask)


class FirstToken:
    """Mixin for the class of a layer, which computes the state of the first token ([CLS]) alone
    where heads read no other.

    With a single query, keys and values need not be computed for each token: q . W x = (W^T q) . x,
    and a weighted mean of values W x is W times the weighted mean of x. The network then costs one
    layer less, except for that layer's attention.
    """

    def forward(
        self: Any,
        hidden_states: Tensor,
        *inputs: Any,
        first_token: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """Return the states of all tokens, (batch, length, hidden), or with `first_token` that of
        the first token, (batch, 1, hidden). `hidden_states`: (batch, length, hidden).
        `first_token`: (batch, length) bool, True where there is a token."""
        if first_token is None:
            states: Tensor = super().forward(hidden_states, *inputs, **more)  # type: ignore[misc]
            return states
        attention = self.attention.self
        first = hidden_states[:, :1]
        queries = (
            attention.query(first).view(len(first), -1, attention.attention_head_size)
            * attention.scaling
        )
        scores = _scores(queries, attention.key, hidden_states).masked_fill(
            ~first_token[:, None], torch.finfo(queries.dtype).min
        )
        weights = attention.dropout(torch.softmax(scores, -1))
        attended = _means(weights, attention.value, hidden_states).reshape(first.shape)
        given: Tensor = self.feed_forward_chunk(self.attention.output(attended, first))
        return given


def skip_tokens(network: nn.Module) -> bool:
    """Let the last layer of a network take `first_token`, if it is like BERT's. Returns whether it
    is."""
    layers = bert_layers(network)
    for last in layers[-1:]:
        # Only the class changes. With a module around the layer, the names of parameters, copies,
        # and what strategies look for in a layer would not stay as they are.
        last.__class__ = type(type(last).__name__, (FirstToken, type(last)), {})
    return bool(layers)


def _scores(queries: Tensor, key: nn.Module, states: Tensor) -> Tensor:
    """Return the products of the queries (batch, heads, size) with the keys of all tokens: (batch,
    heads, length)."""
    heads = queries.shape[1]
    if type(key) is not nn.Linear:  # For example with LoRA.
        return torch.einsum("bhe,blhe->bhl", queries, key(states).unflatten(-1, (heads, -1)))
    turned = torch.einsum("bhe,hed->bhd", queries, key.weight.unflatten(0, (heads, -1)))
    return turned @ states.mT + (queries * key.bias.unflatten(0, (heads, -1))).sum(-1, keepdim=True)


def _means(weights: Tensor, value: nn.Module, states: Tensor) -> Tensor:
    """Return the means of the values of all tokens, weighted by `weights` (batch, heads, length):
    (batch, heads, size)."""
    heads = weights.shape[1]
    if type(value) is not nn.Linear:
        return torch.einsum("bhl,blhe->bhe", weights, value(states).unflatten(-1, (heads, -1)))
    means = torch.einsum("bhd,hed->bhe", weights @ states, value.weight.unflatten(0, (heads, -1)))
    return means + weights.sum(-1, keepdim=True) * value.bias.unflatten(0, (heads, -1))
