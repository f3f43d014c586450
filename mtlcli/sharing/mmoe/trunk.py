"""MMoE: experts that all tasks share, and a gate for each task.

Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts": y_k = sum_i g_k(x)_i f_i(x) with g_k(x) = softmax(W_k x). In the paper x is an
example; here it is a token's state, and the experts are feed-forward blocks of a transformer:
copies of the block of a layer with all that the library keeps in it (in BERT-like layers its
residual and norm too), or new residual blocks on top. Copies of one block start equal but for
`noise`: while they are equal, a gate has no gradient, and the experts' gradients differ only by the
random weights of their gates. The paper has 8 experts of a few units each; the default is 4, since
an expert here is as large as a feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.mmoe import MMoESharing
from mtlcli.sharing.parts.experts import ExpertTrunk, Load, mix
from mtlcli.sharing.parts.layers import chosen_layers, layer_list


class Mixture(nn.Module):
    """Shared experts, private experts of each task, and for each task a gate over its private
    experts and the shared ones, in this order."""

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        gate: Callable[[int], nn.Module],
        owners: Sequence[str],
        *,
        shared: int,
        own: int,
    ) -> None:
        """`make`: builds the given number of experts. `gate`: builds a gate over the given number
        of experts. `shared`, `own`: numbers of shared experts, and of private ones for each
        task."""
        super().__init__()
        self.shared = make(shared) if shared else None
        self.own = PerTask({owner: make(own) for owner in owners}) if own else None
        self.gates = PerTask({owner: gate(own + shared) for owner in owners})
        self.load = Load(owners, own + shared)

    def forward(self, *inputs: Tensor, common: Tensor | None = None) -> Tensor:
        """Return the mixture of the experts' outputs for the inputs: (batch, length, hidden). The
        gate reads the first input.

        `common`: the input of the shared experts, if that is another one (PLE).
        """
        passing = current(ForwardPass)
        outputs = []
        if self.own is not None:
            outputs.append(passing.each(self._own, *inputs, tokens=2).transpose(0, 1))
        if self.shared is not None:
            outputs.append(self.shared(*(inputs if common is None else (common,))))
        return mix(torch.cat(outputs), passing.each(self._weigh, inputs[0], passing.mask))

    def _own(self, owner: str, *inputs: Tensor) -> Tensor:
        """Return the outputs of a task's private experts: (batch, experts, length, hidden)."""
        assert self.own is not None
        outputs: Tensor = self.own[owner](*inputs)
        return outputs.transpose(0, 1)

    def _weigh(self, owner: str, states: Tensor, mask: Tensor) -> Tensor:
        weights: Tensor = self.gates[owner](states)
        self.load.add(owner, weights, mask)
        return weights


class TwoParts(nn.Module):
    """The feed-forward block of a BERT-like layer, which the library keeps in two modules; the
    second adds the residual and the norm."""

    def __init__(self, intermediate: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.intermediate = intermediate
        self.output = output

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """Return states of the same shape."""
        return self.output(self.intermediate(hidden), residual)


def replace_feed_forward(layer: nn.Module, make: Callable[[nn.Module], nn.Module]) -> None:
    """Replace a layer's feed-forward block by `make(block)`. Raises UserError when the layer does
    not keep this block in a module of its own."""
    if isinstance(getattr(layer, "intermediate", None), nn.Module) and isinstance(
        getattr(layer, "output", None), nn.Module
    ):
        # BERT, RoBERTa, DeBERTa, ...: output(intermediate(x), x). The new block does the work of
        # both.
        layer.output = make(TwoParts(layer.intermediate, layer.output))  # type: ignore[arg-type]
        layer.intermediate = nn.Identity()
        return
    inner = getattr(layer, "layer", None)
    if isinstance(inner, nn.ModuleList):
        inner[-1] = make(inner[-1])  # T5
        return
    for name in ("mlp", "ffn"):
        block = getattr(layer, name, None)
        if isinstance(block, nn.Module):
            setattr(layer, name, make(block))
            return
    raise UserError(
        f"{type(layer).__name__} does not keep its feed-forward block in a module of its own, so "
        "there is nothing to make experts of",
        where="sharing.layers",
        fix="type sharing.layers=top, or another model",
    )


class Copies(nn.ModuleList):
    """Experts in a layer: copies of its feed-forward block."""

    def __init__(self, block: nn.Module, count: int, noise: float) -> None:
        """`noise`: standard deviation of the noise that is added to each matrix, relative to the
        standard deviation of the matrix's entries."""
        super().__init__([deepcopy(block) for _ in range(count)])
        with torch.no_grad():
            for parameter in self.parameters():
                if noise and parameter.ndim > 1:
                    parameter.add_(noise * parameter.std() * torch.randn_like(parameter))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output of each expert: (experts, batch, length, hidden)."""
        return torch.stack([expert(*inputs) for expert in self])


class LayerExperts(ExpertTrunk):
    """Mixtures in chosen layers, or one on top: the common part of MMoE and CGC."""

    joint = True
    packs = True

    def __init__(
        self,
        config: Any,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
        *,
        shared: int,
        own: int,
    ) -> None:
        """`config`: MMoE's or CGC's. `shared`, `own`: numbers of shared experts, and of private
        ones for each task."""
        super().__init__(config, make_backbone, owners)
        count = {"shared": shared, "own": own}
        self._places: dict[str, Mixture] = {}
        if config.layers == "top":
            self.top = Mixture(self.blocks, self.gate, self.heads, **count)
            self.put_on_top(self.top)
            self._places["top"] = self.top
            return
        layers = layer_list(self.backbone.network)
        chosen = chosen_layers(config.layers, len(layers), "sharing.layers")
        for number in chosen:

            def mixture(block: nn.Module, number: int = number) -> nn.Module:
                if not all(parameter.requires_grad for parameter in block.parameters()):
                    raise UserError(
                        f"layer {number} is frozen (model.frozen_layers), so its experts would "
                        "stay the same",
                        where="sharing.layers",
                        fix="name layers that are trained, or type sharing.layers=top",
                    )

                def copies(count: int) -> nn.Module:
                    return Copies(block, count, config.noise)

                made = Mixture(copies, self.gate, self.heads, **count)
                self._places[f"layer {number}"] = made
                return made

            replace_feed_forward(layers[number], mixture)

    def loads(self) -> dict[str, list[Load]]:
        """Return the loads by `layer N` or `top`."""
        return {place: [mixture.load] for place, mixture in self._places.items()}


class MMoE(LayerExperts):
    """One backbone with mixtures of shared experts in it."""

    def __init__(
        self, config: MMoESharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(config, make_backbone, owners, shared=config.experts, own=0)
