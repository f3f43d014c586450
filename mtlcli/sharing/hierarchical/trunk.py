"""Hierarchical sharing: each task reads a layer of its own choice; layers above it do not run for
its batches.

Søgaard & Goldberg 2016, "Deep multi-task learning with low level tasks supervised at lower layers";
Hashimoto et al. 2017, "A Joint Many-Task Model". Scalar mix: Peters et al. 2018, "Deep
contextualized word representations" (ELMo).

A norm or a pooler that the network has above its layers acts on the task's layer as it would on the
last one. With every task at the last layer this is hard sharing. Layers above the highest one that
a task reads are dropped.

Successive regularisation keeps what lower tasks have learned while higher ones train: delta |theta
- theta'|^2, where theta are the embeddings and the layers that a task below the highest reads.
Hashimoto et al. train the tasks one after another, an epoch each, and theta' are the weights as the
tasks below have left them. Here steps of all tasks alternate, and one step may hold several; so
theta' are the weights as they were at the last of every `successive_every` steps, and the auxiliary
loss acts in every step.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import (
    CannotMerge,
    HasAuxiliaryLoss,
    Merges,
    ParameterTable,
    Trunk,
)
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.hierarchical import HierarchicalSharing
from mtlcli.sharing.parts.layers import (
    Layer,
    chosen_layers,
    hidden_into,
    hidden_of,
    layer_list,
    with_hidden,
)


class Hierarchical(Trunk, HasAuxiliaryLoss, Merges):
    """One backbone; a task's batches leave it at the task's layer."""

    packs = True

    def __init__(
        self,
        config: HierarchicalSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(owners)
        self.config = config
        self.first_token = not config.mix
        self.backbone = make_backbone()
        layers = layer_list(self.backbone.network)
        self.exits = {
            name: chosen_layers([config.tasks.get(name, -1)], len(layers), f"sharing.tasks.{name}")[
                0
            ]
            for name in self.heads
        }
        """The layer that each task with a head of its own reads."""
        top = max(self.exits.values())
        del layers[top + 1 :]
        self.backbone.network.config.get_text_config().num_hidden_layers = top + 1
        self.mixes = PerTask(
            {name: ScalarMix(self.exits[name] + 2) for name in self.heads} if config.mix else {}
        )
        for number in range(len(layers)):
            layers[number] = ExitLayer(layers[number], number)
        self._successive = (
            SuccessiveRegularisation(self, self._lower(top), config) if config.successive else None
        )

    def merged(self, task: str) -> Backbone:
        """Return a copy of the backbone that ends with the layer that the task reads. Raises
        CannotMerge where it reads a mix of layers."""
        if self.config.mix:
            raise CannotMerge("a task reads a mix of several layers (sharing.mix)")
        backbone = deepcopy(self.backbone)
        layers = layer_list(backbone.network)
        for number, layer in enumerate(layers):
            layers[number] = layer.inner  # type: ignore[assignment]
        depth = self.exits[self.owners[task]] + 1
        del layers[depth:]
        backbone.network.config.get_text_config().num_hidden_layers = depth
        return backbone

    def begin(self, task: str, batch: Batch) -> ExitPass:
        """Return the pass of a batch, in which no layer has run."""
        owner = self.owners[task]
        mix = self.mixes[owner] if self.config.mix else None
        return ExitPass(self.parts(task, batch), batch.attention_mask, self.exits[owner], mix)

    def same_for(self, one: str, other: str) -> bool:
        """Return whether two tasks read the same layer, and no mix of their own."""
        first, second = self.owners[one], self.owners[other]
        return first == second or (not self.config.mix and self.exits[first] == self.exits[second])

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. Those of a layer belong to the tasks that read this layer
        or one above it."""
        table = super().parameter_table()
        for number, layer in enumerate(layer_list(self.backbone.network)):
            readers = [task for task, owner in self.owners.items() if self.exits[owner] >= number]
            table.change(layer.parameters(), users=tuple(readers))
        return table

    def penalty(self) -> Tensor | None:
        """Return the auxiliary loss of successive regularisation, a scalar; None without it. Called
        once a step, because it counts the steps."""
        return None if self._successive is None else self._successive.penalty()

    def measures(self) -> dict[str, Any]:
        """Return `layers`: the layer of each task, from 0. With `mix`, also `mix`: the share of
        each state in what a task reads, from the embeddings to its layer. With `successive`, also
        `distance`: the value that the penalty multiplies."""
        found: dict[str, Any] = {"layers": self.exits}
        with torch.no_grad():
            if self.config.mix:
                found["mix"] = {name: mix.shares().tolist() for name, mix in self.mixes.items()}  # type: ignore[operator]
            if self._successive is not None:
                found["distance"] = float(self._successive.distance())
        return found

    def _lower(self, top: int) -> list[nn.Parameter]:
        """Return the trained parameters of the embeddings and the layers that a task below the
        highest reads. Raises UserError when there are none."""
        lower = max((layer for layer in self.exits.values() if layer < top), default=None)
        found = [
            parameter
            for parameter, depth in self.backbone.depths().items()
            if lower is not None and parameter.requires_grad and depth > top - lower
        ]
        if not found:
            why = "every task reads the same layer" if lower is None else "all of them are frozen"
            raise UserError(
                f"there are no lower layers to hold: {why}",
                where="sharing.successive",
                fix="give tasks different layers, or leave it out",
            )
        return found


class SuccessiveRegularisation:
    """delta |theta - theta'|^2 for the parameters theta that are held. theta' and the number of
    steps that they have been held for are buffers of the trunk, so that a resumed run has them."""

    def __init__(
        self, trunk: nn.Module, held: list[nn.Parameter], config: HierarchicalSharing
    ) -> None:
        self._factor, self._every = config.successive, config.successive_every
        self._trunk, self._held = trunk, held
        for index, parameter in enumerate(held):
            trunk.register_buffer(f"before{index}", parameter.detach().clone())
        trunk.register_buffer("held_for", torch.zeros((), dtype=torch.int64))

    def penalty(self) -> Tensor:
        """Return the auxiliary loss of a step, a scalar, and count the step. After the last of
        every so many steps, what the parameters are now takes the place of what they were."""
        held_for = self._trunk.get_buffer("held_for")
        if int(held_for) == self._every:
            for index, parameter in enumerate(self._held):
                self._trunk.get_buffer(f"before{index}").copy_(parameter.detach())
            held_for.zero_()
        held_for.add_(1)
        return self._factor * self.distance()

    def distance(self) -> Tensor:
        """Return |theta - theta'|^2, a scalar."""
        terms = [
            (parameter - self._trunk.get_buffer(f"before{index}")).square().sum()
            for index, parameter in enumerate(self._held)
        ]
        return torch.stack(terms).sum()


@dataclass
class ExitPass(ForwardPass):
    """A pass that also holds what the layers need to know of the batch."""

    exit_at: int
    """The layer that the batch's task reads."""
    mix: nn.Module | None
    """The mix of layers that it reads, if it does not read that layer alone."""
    states: list[Tensor] = field(default_factory=list)
    """With a mix: the states below the first layer and above each layer that has run."""
    output: Any = None
    """The output of the last layer that ran."""


class ExitLayer(Layer):
    """A layer that runs for the tasks that read it or one above it; for others the hidden states
    pass through unchanged."""

    def __init__(self, layer: nn.Module, number: int) -> None:
        super().__init__(layer)
        self.inner = layer
        self._number = number

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output, at the task's own layer with the mix as hidden states; above
        the task's layer, return the hidden states that came in."""
        passing, hidden = current(ExitPass), hidden_into(inputs, more)
        if self._number > passing.exit_at:
            # The output of the last layer that ran gives the form, and whatever this network's
            # layers pass on beside the states (T5's position biases).
            return with_hidden(passing.output, hidden)
        passing.output = output = self.inner(*inputs, **more)
        if passing.mix is not None:
            passing.states.append(hidden)
            if self._number == passing.exit_at:
                mixed = passing.mix([*passing.states, hidden_of(output)])
                output = with_hidden(output, mixed)
        return output


class ScalarMix(nn.Module):
    """scale * sum_j softmax(weights)_j h_j: a mean of states with learned weights, which start
    equal, times a learned factor."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(states))
        self.scale = nn.Parameter(torch.ones(()))

    def shares(self) -> Tensor:
        """Return the weights of the states, which sum to 1: (states,)."""
        return self.weights.softmax(0)

    def forward(self, states: list[Tensor]) -> Tensor:
        """Return the mixture of states of the same shape, one for each weight."""
        mixed = torch.zeros_like(states[0])
        for share, state in zip(self.shares(), states, strict=True):
            mixed = mixed + share * state
        return self.scale * mixed
