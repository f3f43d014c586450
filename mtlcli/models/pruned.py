"""Attention heads that were removed from a network (`mtl compress --method heads`).

A backbone's architecture names them by layer under `pruned_heads`, the field that the transformers
library had for them before version 5, whose networks no longer read it. The heads are counted as
before any was removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import prune_linear_layer

from mtlcli.errors import UserError, count_of

FIELD = "pruned_heads"
"""The field of an architecture: the number of a layer, as a text -> the heads that it lacks."""
KINDS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""The kinds of models whose layers are made of the same parts as BERT's: their attention works with
any number of heads."""
PROJECTIONS = ("query", "key", "value")
"""The linear maps of attention whose output has a part for each head."""


def attentions(network: Any) -> list[Any]:
    """Return the attention of each layer of a network like BERT's: its projections stand in `self`,
    and `output.dense` reads the heads side by side."""
    return [layer.attention for layer in network.encoder.layer]


def head_counts(network: Any) -> list[int]:
    """Return the number of heads in each layer of a network like BERT's."""
    return [
        each.output.dense.in_features // each.self.attention_head_size
        for each in attentions(network)
    ]


def heads_left(architecture: Mapping[str, Any]) -> list[list[int]]:
    """Return the heads that each layer has, counted as before any was removed. Raises UserError
    when the architecture lacks heads that its kind of models cannot lack."""
    kind, gone = architecture["model_type"], architecture.get(FIELD) or {}
    if kind not in KINDS:
        fix = f"heads can be removed from {', '.join(KINDS)}"
        raise UserError(f"a model of the kind {kind} cannot lack heads", FIELD, fix)
    layers, heads = architecture["num_hidden_layers"], architecture["num_attention_heads"]
    left = [
        [head for head in range(heads) if head not in gone.get(str(layer), ())]
        for layer in range(layers)
    ]
    named = sum(len(each) for each in gone.values())
    if not all(left) or sum(map(len, left)) + named != layers * heads:
        what = (
            f"{gone} are not heads of {count_of(layers, 'layer')} with {heads} heads each, of "
            "which every layer keeps one"
        )
        raise UserError(what, FIELD, "bring back the run's own files")
    return left


@torch.no_grad()
def prune(network: Any, kept: Sequence[Sequence[int]]) -> None:
    """Remove all heads but `kept` from each layer of a network like BERT's: their rows of the
    projections, and their columns of the layer that reads them. `kept`: for each layer, counted
    among the heads that it has."""
    for attention, heads in zip(attentions(network), kept, strict=True):
        rows = _rows(heads, attention.self.attention_head_size)
        for name in PROJECTIONS:
            setattr(attention.self, name, prune_linear_layer(getattr(attention.self, name), rows))
        attention.output.dense = prune_linear_layer(attention.output.dense, rows, dim=1)
        attention.self.num_attention_heads = len(heads)
        attention.self.all_head_size = len(rows)


@torch.no_grad()
def unpruned(network: Any, architecture: Mapping[str, Any]) -> Any:
    """Return a copy of a network that lacks heads, with zeros in their place: it computes the same,
    and has the shapes that the library gives it."""
    whole = deepcopy(network)
    for attention, heads in zip(attentions(whole), heads_left(architecture), strict=True):
        size = attention.self.attention_head_size
        width = architecture["num_attention_heads"] * size
        rows = _rows(heads, size)
        for name in PROJECTIONS:
            found = getattr(attention.self, name)
            filled = nn.Linear(found.in_features, width)
            filled.weight.zero_()[rows] = found.weight
            filled.bias.zero_()[rows] = found.bias
            setattr(attention.self, name, filled)
        found = attention.output.dense
        filled = nn.Linear(width, found.out_features)
        filled.weight.zero_()[:, rows] = found.weight
        filled.bias.copy_(found.bias)
        attention.output.dense = filled
        attention.self.num_attention_heads = architecture["num_attention_heads"]
        attention.self.all_head_size = width
    return whole


def _rows(heads: Sequence[int], size: int) -> Any:
    """Return the rows of a projection that belong to some heads of a size."""
    return torch.tensor([head * size + row for head in heads for row in range(size)])
