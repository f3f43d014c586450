"""What the strategies with experts have in common: gates and their statistics, experts on top of
the backbone, and the trunk that holds them.

Experts on top are new blocks that stand behind the last layer and before what the network does with
its output (a final norm, a pooler), so pooled vectors are made from the experts' outputs. The
experts inside layers are in mmoe.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.config.sharing import Gating
from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import HasAuxiliaryLoss, ObservesSteps, ParameterTable, Trunk
from mtlcli.sharing.parts import dselect
from mtlcli.sharing.parts.dselect import DSelectK
from mtlcli.sharing.parts.layers import hidden_of, layer_list, with_hidden


@dataclass
class ExpertPass(ForwardPass):
    """A pass that also knows whether it belongs to a training step."""

    step: int | None
    """Number of the training step, counted since the process began; None in any other pass."""


class Load(nn.Module):
    """Statistics of gates: the mean weight of each expert, for each name (a task, or PLE's shared
    stream), over the tokens of all micro-batches in that name's latest training step. Part of the
    checkpoint."""

    weights: Tensor
    tokens: Tensor

    def __init__(self, names: Sequence[str], experts: int) -> None:
        super().__init__()
        self._rows = {name: row for row, name in enumerate(names)}
        self._steps: dict[str, int] = {}
        self.register_buffer("weights", torch.zeros(len(names), experts))
        self.register_buffer("tokens", torch.zeros(len(names)))

    @torch.no_grad()
    def add(self, name: str, weights: Tensor, mask: Tensor) -> None:
        """Add the weights of a micro-batch, if this pass belongs to a training step.

        `weights`: (batch, length, experts); `mask`: (batch, length), True where there is a token.
        """
        step = current(ExpertPass).step
        if step is None:
            return
        row = self._rows[name]
        if self._steps.get(name) != step:
            self._steps[name] = step
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


class ExpertTrunk(Trunk, HasAuxiliaryLoss, ObservesSteps):
    """One backbone for all tasks, with experts in some of its layers or on top."""

    unmergeable = "gates choose among several experts anew for each token or input"

    def __init__(
        self, gating: Gating, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        """`gating`: the part of the config that chooses the gates."""
        super().__init__(owners)
        self.gating = gating
        self._steps = 0
        self._in_step = False
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

    def begin(self, task: str, batch: Batch) -> ExpertPass:
        """Return the pass of a batch, with the number of the step that it belongs to."""
        step = self._steps if self._in_step else None
        return ExpertPass(self.parts(task, batch), batch.attention_mask, step)

    @contextmanager
    def training_passes(self) -> Iterator[None]:
        """Enclose the passes of a training step: only these count for the load."""
        self._steps += 1
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False

    def penalty(self) -> Tensor | None:
        """Return the entropy term of DSelect-k gates, summed over the gates; None with gates of
        another kind."""
        terms = [
            gate.penalty(self.gating.entropy)
            for gate in self.modules()
            if isinstance(gate, DSelectK)
        ]
        return torch.stack(terms).sum() if terms else None

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. DSelect-k gates have a learning rate of their own."""
        table = super().parameter_table()
        for gate in self.modules():
            if isinstance(gate, DSelectK):
                table.change(gate.parameters(), lr=dselect.LR)
        return table

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
