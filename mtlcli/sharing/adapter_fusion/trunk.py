"""AdapterFusion: adapters for each task, and for each task an attention over the adapters of all.

Pfeiffer et al. 2021, "AdapterFusion: Non-Destructive Task Composition for Transfer Learning". With
h what a layer gives and z_k = up_k(gelu(down_k(h))) what adapter k would add, a batch of task t
goes on with

    h + sum_k a_k z_k,    a = softmax_k( (Q_t h) . (K_t z_k) / sqrt(keys) )

Differences. The paper trains the adapters first and the attention over them, then frozen, in a
second run; here both are trained at once, and a task changes only its own adapters: it reads those
of others, but no gradient of its loss goes into their weights. Q and K are `keys` x hidden, and
there is no value matrix (the paper starts it at the identity): three hidden x hidden matrices for
each task and layer would be as large as the backbone. The scores are scaled like those of any
attention.

All adapters start at zero, so that at the start the backbone's output is unchanged and every
adapter has the same share.
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
from mtlcli.sharing.adapter_fusion import AdapterFusionSharing
from mtlcli.sharing.adapters.trunk import Bottleneck
from mtlcli.sharing.parts.layers import Layer, hidden_of, replace_layers, with_hidden


class AdapterFusion(Trunk):
    """One backbone, frozen or not, with adapters behind its layers, which every task mixes by an
    attention of its own."""

    unmergeable = (
        "adapters are networks of their own behind a layer, and attention mixes them for each token"
    )

    packs = True

    def __init__(
        self,
        config: AdapterFusionSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(owners)
        self.backbone = make_backbone()
        hidden = self.backbone.hidden
        self._fused: list[FusedLayer] = []

        def place(layer: nn.Module) -> FusedLayer:
            adapters = PerTask({name: Bottleneck(hidden, config.size) for name in self.heads})
            fusions = PerTask(
                {name: Fusion(hidden, config.keys, len(self.heads)) for name in self.heads}
            )
            self._fused.append(FusedLayer(layer, adapters, fusions))
            return self._fused[-1]

        replace_layers(self.backbone, config.layers, place, frozen=config.frozen)

    def measures(self) -> dict[str, Any]:
        """Return `attention`: for each task, the share of each task's adapter in what it reads,
        averaged over layers and the tokens of its newest (micro-)batch in training on this rank."""
        found = {}
        for name in self.heads:
            shares = torch.stack(
                [layer.fusions[name].get_buffer("shares") for layer in self._fused]
            ).mean(0)
            found[name] = dict(zip(self.heads, shares.tolist(), strict=True))
        return {"attention": found}


class Fusion(nn.Module):
    """The attention of one task over `count` adapters."""

    def __init__(self, hidden: int, keys: int, count: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, keys, bias=False)
        self.key = nn.Linear(hidden, keys, bias=False)
        # Part of the checkpoint, so that the statistics of a run do not depend on whether it was
        # interrupted.
        self.register_buffer("shares", torch.full((count,), 1 / count))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return r = K^T Q h / sqrt(keys), (..., hidden). The score of an adapter is the product of
        r with what the adapter would add."""
        query = self.query(hidden)
        return query @ self.key.weight / query.shape[-1] ** 0.5


class FusedLayer(Layer):
    """A layer, and behind it the task's mix of all adapters."""

    def __init__(self, layer: nn.Module, adapters: PerTask, fusions: PerTask) -> None:
        super().__init__(layer)
        self.inner, self.adapters, self.fusions = layer, adapters, fusions

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output, with the mix added to the hidden states."""
        output = self.inner(*inputs, **more)
        hidden = hidden_of(output)
        return with_hidden(output, hidden + self._mix(hidden))

    def _mix(self, hidden: Tensor) -> Tensor:
        """Return sum_k a_k z_k: (batch, length, hidden). The K adapters are computed as one adapter
        that is K times as wide, so that no z_k is ever made."""
        passing = current(ForwardPass)
        fusion = self.fusions[passing.owner]
        down, down_bias, up, up_bias = (
            self._stacked(*place)
            for place in (("down", "weight"), ("down", "bias"), ("up", "weight"), ("up", "bias"))
        )
        inside = nn.functional.gelu(
            nn.functional.linear(hidden, down.flatten(0, 1), down_bias.flatten())
        )
        wide = up.transpose(1, 2).flatten(0, 1)  # (K size, hidden)
        by_adapter = (*hidden.shape[:-1], len(down), -1)
        probe = fusion(hidden)
        scores = (nn.functional.linear(probe, wide) * inside).view(by_adapter).sum(
            -1
        ) + nn.functional.linear(probe, up_bias)
        shares = scores.softmax(-1)
        if self.training and torch.is_grad_enabled():
            mask = passing.mask.unsqueeze(-1)
            fusion.get_buffer("shares").copy_((shares.detach() * mask).sum((0, 1)) / mask.sum())
        weighted = (inside.view(by_adapter) * shares.unsqueeze(-1)).flatten(-2)
        return weighted @ wide + shares @ up_bias

    def _stacked(self, part: str, kind: str) -> Tensor:
        """Return one of the four parameters of all K adapters: (K, ...). No gradient goes into
        those of other tasks."""
        owner = current(ForwardPass).owner
        each = [
            (name, adapter.get_submodule(part).get_parameter(kind))
            for name, adapter in self.adapters.items()
        ]
        return torch.stack(
            [parameter if name == owner else parameter.detach() for name, parameter in each]
        )
