"""The last layer of networks like BERT where heads read the first token alone: it computes no
other state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from mtlcli.fast.attention import bert_layers
from mtlcli.fast.mixin import put_on
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.sharing.parts.layers import layer_list


class FirstToken:
    """Mixin for the class of a layer, which computes the state of the first token ([CLS]) alone
    for batches whose heads read no other.

    With a single query, keys and values need not be computed for each token: q . W x = (W^T q) . x,
    and a weighted mean of values W x is W times the weighted mean of x. The network then costs one
    layer less, except for that layer's attention.
    """

    first_token_heads: set[str]
    """The tasks with a head of their own whose head reads the first token alone."""

    def forward(self: Any, hidden_states: Tensor, *inputs: Any, **more: Any) -> Tensor:
        """Return the states of all tokens, (batch, length, hidden), or that of the first token,
        (batch, 1, hidden). `hidden_states`: (batch, length, hidden)."""
        passing = current(ForwardPass)
        if not self.first_token_heads.issuperset(owner for owner, _ in passing.parts):
            states: Tensor = super().forward(hidden_states, *inputs, **more)  # type: ignore[misc]
            return states
        attention = self.attention.self
        first = hidden_states[:, :1]
        queries = (
            attention.query(first).view(len(first), -1, attention.attention_head_size)
            * attention.scaling
        )
        scores = _scores(queries, attention.key, hidden_states).masked_fill(
            ~passing.mask[:, None], torch.finfo(queries.dtype).min
        )
        weights = attention.dropout(torch.softmax(scores, -1))
        attended = _means(weights, attention.value, hidden_states).flatten(1).unsqueeze(1)
        given: Tensor = self.feed_forward_chunk(self.attention.output(attended, first))
        return given


def read_first_token(model: MultiTaskModel, backbones: Iterable[Backbone]) -> None:
    """Let the last layers of a model's backbones compute the first token alone for the tasks that
    read no other, if the layers are like BERT's and the sharing strategy allows."""
    trunk = model.trunk
    if not trunk.first_token or model.pooling not in ("pooler", "cls"):
        return
    heads = {
        owner
        for owner in trunk.heads
        if not any(model.tasks[task].reads_tokens for task in trunk.borrowers(owner))
    }
    for backbone in backbones:
        if bert_layers(backbone.network):
            # In the place of the last layer there may be a copy of it for each task.
            for last in bert_layers(layer_list(backbone.network)[-1]):
                put_on(FirstToken, last, first_token_heads=heads)


def _scores(queries: Tensor, key: Any, states: Tensor) -> Tensor:
    """Return the products of the queries (batch, heads, size) with the keys of all tokens: (batch,
    heads, length)."""
    heads = queries.shape[1]
    if not _is_plain(key):
        return torch.einsum("bhe,blhe->bhl", queries, key(states).unflatten(-1, (heads, -1)))
    turned = torch.einsum("bhe,hed->bhd", queries, key.weight.unflatten(0, (heads, -1)))
    return turned @ states.mT + (queries * key.bias.unflatten(0, (heads, -1))).sum(-1, keepdim=True)


def _means(weights: Tensor, value: Any, states: Tensor) -> Tensor:
    """Return the means of the values of all tokens, weighted by `weights` (batch, heads, length):
    (batch, heads, size)."""
    heads = weights.shape[1]
    if not _is_plain(value):
        return torch.einsum("bhl,blhe->bhe", weights, value(states).unflatten(-1, (heads, -1)))
    means = torch.einsum("bhd,hed->bhe", weights @ states, value.weight.unflatten(0, (heads, -1)))
    return means + weights.sum(-1, keepdim=True) * value.bias.unflatten(0, (heads, -1))


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a module is a matrix and a bias in floating-point numbers, and no more; with
    LoRA, for example, it is not."""
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter
