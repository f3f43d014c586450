"""Experts: parallel feed-forward blocks, and gates that mix their outputs.

In a layer of the network, experts are copies of the layer's own feed-forward block. On top of the
backbone they are new blocks that stand behind the last layer and before what the network does with
its output (a final norm, a pooler), so pooled vectors are made from the experts' outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.config.sharing import Gating
from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models import dselect
from mtlcli.models.backbone import Backbone
from mtlcli.models.dselect import DSelectK
from mtlcli.models.layers import (
    MaskedRoute,
    PerTask,
    chosen_layers,
    hidden_of,
    layer_list,
    with_hidden,
)
from mtlcli.models.multitask import Trunk
from mtlcli.tasks.base import Encoded


class ExpertRoute(MaskedRoute):
    """Route that also knows whether this pass belongs to a training step."""

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = None
        """Number of the training step, counted since the process began; None in any other pass."""


class Load(nn.Module):
    """Statistics of gates: the mean weight of each expert, for each name (a task, or PLE's shared
    stream), over the tokens of all micro-batches in that name's latest training step. Part of the
    checkpoint."""

    weights: Tensor
    tokens: Tensor

    def __init__(self, names: Sequence[str], experts: int, route: ExpertRoute) -> None:
        super().__init__()
        self._rows = {name: row for row, name in enumerate(names)}
        self._route = route
        self._steps: dict[str, int] = {}
        self.register_buffer("weights", torch.zeros(len(names), experts))
        self.register_buffer("tokens", torch.zeros(len(names)))

    @torch.no_grad()
    def add(self, name: str, weights: Tensor, mask: Tensor) -> None:
        """Add the weights of a micro-batch, if this pass belongs to a training step.

        `weights`: (batch, length, experts); `mask`: (batch, length), True where there is a token.
        """
        if self._route.step is None:
            return
        row = self._rows[name]
        if self._steps.get(name) != self._route.step:
            self._steps[name] = self._route.step
            self.weights[row] = 0
            self.tokens[row] = 0
        self.weights[row] += (weights.float() * mask.unsqueeze(-1)).sum((0, 1))
        self.tokens[row] += mask.sum()

    def report(self) -> dict[str, list[float]]:
        """Return the mean weights (experts,) of each name that had a batch; they sum to one."""
        means = (self.weights / self.tokens.clamp(min=1).unsqueeze(-1)).tolist()
        seen = self.tokens.tolist()
        return {
            name: [round(weight, 4) for weight in means[row]]
            for name, row in self._rows.items()
            if seen[row]
        }


class Softmax(nn.Linear):
    """A gate of Ma et al. 2018: softmax(W x) for every token."""

    def __init__(self, hidden: int, experts: int, std: float) -> None:
        """`std`: standard deviation of the initial weights. They are random, so that experts that
        start equal become different."""
        super().__init__(hidden, experts, bias=False)
        nn.init.normal_(self.weight, std=std)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the experts' weights (..., experts), in fp32, for states (..., width)."""
        return super().forward(hidden).float().softmax(-1)


def build_gate(config: Gating, hidden: int, experts: int, std: float) -> nn.Module:
    """Build a gate of the kind that the config names."""
    return (
        Softmax(hidden, experts, std)
        if config.gate == "softmax"
        else DSelectK(experts, config.selected)
    )


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


class Blocks(nn.Module):
    """Experts on top: residual feed-forward blocks x + W2 gelu(W1 norm(x) + b1) + b2, as wide
    inside as outside, in one batched product."""

    def __init__(self, count: int, hidden: int, std: float) -> None:
        """`std`: standard deviation of the initial weights."""
        super().__init__()
        self.count = count
        # Biases and norms are flat, because parameters with one dimension have no weight decay.
        self.norm = nn.Parameter(torch.ones(count * hidden))
        self.norm_bias = nn.Parameter(torch.zeros(count * hidden))
        self.up = nn.Parameter(torch.empty(count, hidden, hidden).normal_(std=std))
        self.up_bias = nn.Parameter(torch.zeros(count * hidden))
        self.down = nn.Parameter(torch.empty(count, hidden, hidden).normal_(std=std))
        self.down_bias = nn.Parameter(torch.zeros(count * hidden))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the output of each expert: (count, batch, length, hidden). `hidden`: states
        (batch, length, hidden) that all experts read, or (count, batch, length, hidden), one set
        for each expert."""
        shape = (self.count, *hidden.shape[-3:])
        states = hidden.reshape(-1, shape[1] * shape[2], shape[3])
        each = self.count, 1, -1
        normed = nn.functional.layer_norm(states, states.shape[-1:]) * self.norm.view(
            each
        ) + self.norm_bias.view(each)
        inner = nn.functional.gelu(normed @ self.up + self.up_bias.view(each))
        return (states + (inner @ self.down + self.down_bias.view(each))).view(shape)


def mix(outputs: Tensor, weights: Tensor) -> Tensor:
    """Mix outputs (experts, batch, length, hidden) by weights (batch, length, experts). Returns
    (batch, length, hidden) in the outputs' precision."""
    return (outputs * weights.movedim(-1, 0).unsqueeze(-1)).sum(0).to(outputs.dtype)


class Mixture(nn.Module):
    """Shared experts, private experts of each task, and for each task a gate over its private
    experts and the shared ones, in this order."""

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        gate: Callable[[int], nn.Module],
        owners: Sequence[str],
        route: ExpertRoute,
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
        self.load = Load(owners, own + shared, route)
        self._route = route

    def forward(self, *inputs: Tensor, common: Tensor | None = None) -> Tensor:
        """Return the mixture of the experts' outputs for the inputs: (batch, length, hidden). The
        gate reads the first input.

        `common`: the input of the shared experts, if that is another one (PLE).
        """
        outputs = [] if self.own is None else [self._route.each(self._own, *inputs).transpose(0, 1)]
        if self.shared is not None:
            outputs.append(self.shared(*(inputs if common is None else (common,))))
        return mix(torch.cat(outputs), self._route.each(self._weigh, inputs[0], self._route.mask))

    def _own(self, owner: str, *inputs: Tensor) -> Tensor:
        """Return the outputs of a task's private experts: (batch, experts, length, hidden)."""
        assert self.own is not None
        outputs: Tensor = self.own[owner](*inputs)
        return outputs.transpose(0, 1)

    def _weigh(self, owner: str, states: Tensor, mask: Tensor) -> Tensor:
        weights: Tensor = self.gates[owner](states)
        self.load.add(owner, weights, mask)
        return weights


class ExpertTrunk(Trunk):
    """One backbone for all tasks, with experts in some of its layers or on top."""

    def __init__(
        self, gating: Gating, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        """`gating`: the part of the config that chooses the gates."""
        super().__init__(owners)
        self.gating = gating
        self.route = ExpertRoute()
        self._steps = 0
        self.backbone = make_backbone()
        self.std = self.backbone.initializer_range

    def gate(self, experts: int) -> nn.Module:
        """Build a gate over the given number of experts."""
        return build_gate(self.gating, self.backbone.hidden, experts, self.std)

    def blocks(self, experts: int) -> Blocks:
        """Build the given number of experts for a place on top."""
        return Blocks(experts, self.backbone.hidden, self.std)

    def put_on_top(self, top: Callable[[Tensor], Tensor]) -> None:
        """Pass the output of the last layer through `top`. As `top` lies beside the network, it is
        trained even when all layers are frozen."""

        def behind(_layer: nn.Module, _inputs: Any, output: Any) -> Any:
            return with_hidden(output, top(hidden_of(output)))

        layer_list(self.backbone.network)[-1].register_forward_hook(behind)

    def forward(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors computed through the experts."""
        self.route.parts, self.route.mask = self.owned(task, batch), batch.attention_mask
        return self.backbone(batch)

    @contextmanager
    def training_passes(self) -> Iterator[None]:
        """See `Trunk`: only these passes count for the load."""
        self._steps += 1
        self.route.step = self._steps
        try:
            yield
        finally:
            self.route.step = None

    def penalty(self) -> Tensor | None:
        """Return the entropy term of DSelect-k gates, summed over the gates; None with gates of
        another kind."""
        terms = [
            gate.penalty(self.gating.entropy)
            for gate in self.modules()
            if isinstance(gate, DSelectK)
        ]
        return torch.stack(terms).sum() if terms else None

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of DSelect-k gates, which have one of their own."""
        gates = [name for name, module in self.named_modules() if isinstance(module, DSelectK)]
        return {f"{gate}.{name}": dselect.LR for gate in gates for name in ("z", "selectors")}

    def measures(self) -> dict[str, Any]:
        """Return `load`: for each place with experts (`layer N`, `top` or `level N`) and each gate,
        the mean weight of each of its experts in the gate's latest step, over the tokens of all
        micro-batches; with several ranks, over those of the first rank."""
        found = {place: [load.report() for load in loads] for place, loads in self.loads().items()}
        return {
            "load": {
                place: {name: means for each in reports for name, means in each.items()}
                for place, reports in found.items()
            }
        }

    @abstractmethod
    def loads(self) -> dict[str, list[Load]]:
        """Return the loads that `measures` reports, by place."""


class LayerExperts(ExpertTrunk):
    """Mixtures in chosen layers, or one on top: the common part of MMoE and CGC."""

    joint = True

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
            self.top = Mixture(self.blocks, self.gate, self.heads, self.route, **count)
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

                made = Mixture(copies, self.gate, self.heads, self.route, **count)
                self._places[f"layer {number}"] = made
                return made

            replace_feed_forward(layers[number], mixture)

    def loads(self) -> dict[str, list[Load]]:
        """Return the loads by `layer N` or `top`."""
        return {place: [mixture.load] for place, mixture in self._places.items()}
