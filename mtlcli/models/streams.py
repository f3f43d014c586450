"""Streams: the states of K task copies of the network, side by side, which units between the layers
mix.

A batch of one task runs through all copies as far as the last unit, and through its own copy above.
The weights of the copies that run together are stored with a leading dimension of K, and the layer
that the library wrote is called once for all of them (`torch.func.vmap`): K times the arithmetic of
one copy, in products that are K times as large, and the Python of one with that of vmap. On a CPU
this saves time where copies are small and many, and costs a few percent where they are large
(scripts/bench/copies.md).

Embeddings, and norms or poolers above the layers, are one for all tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.pytorch_utils import Conv1D

from mtlcli.config.sharing import Stitching
from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.dropout import restore
from mtlcli.models.layers import Layer, PerTask, Route, chosen_layers, layer_list
from mtlcli.models.multitask import Trunk
from mtlcli.tasks.base import Encoded


class StreamRoute(Route):
    """Whose batch is in the backbone just now, and what its layers have given so far."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []
        """(batch, length, hidden) for each layer that has copies: the states of the batch's task,
        mixed where a unit follows."""
        self.made: list[Tensor] = []
        """What layers hand to the layers above beside the states, for each copy (T5's position
        bias): (K, ...) each."""


def linear_maps(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """The matrices of a layer with their biases, by name, lowest first."""
    return [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


class Stacked(nn.Module):
    """K copies of a layer, called at once."""

    def __init__(self, layer: nn.Module, copies: int) -> None:
        """All copies start from the weights of `layer`, whose own parameters are taken out."""
        super().__init__()
        self.copies = copies
        restore(layer)
        self.weights = nn.ParameterDict()
        self._shapes: dict[str, torch.Size] = {}
        maps = linear_maps(layer)
        self._linear = {f"{name}.{kind}" for name, module in maps for kind in ("weight", "bias")}
        # (K, in, out), as GPT-2's are: a product's gradient then comes in the layout of the
        # weights, and is not copied into it.
        self._turned = {f"{name}.weight" for name, module in maps if isinstance(module, nn.Linear)}
        for name, parameter in list(layer.named_parameters()):
            stacked = parameter.detach().expand(copies, *parameter.shape).clone()
            stacked = stacked.mT.contiguous() if name in self._turned else stacked
            self._shapes[name] = stacked.shape[1:]
            # Flat where one copy's has one dimension: what has one dimension has no weight decay.
            stacked = stacked.flatten() if parameter.ndim == 1 else stacked
            self.weights[name.replace(".", "/")] = nn.Parameter(
                stacked, requires_grad=parameter.requires_grad
            )
            owner, _, last = name.rpartition(".")
            layer.get_submodule(owner).register_parameter(last, None)
        self.template = layer

    def of(self, name: str) -> Tensor:
        """(K, ...): a parameter of the layer, of all copies."""
        stacked: Tensor = self.weights[name.replace(".", "/")].view(
            self.copies, *self._shapes[name]
        )
        return stacked.mT if name in self._turned else stacked

    def forward(
        self, streams: Tensor, inputs: tuple[Any, ...], more: dict[str, Any], made: list[Tensor]
    ) -> Any:
        """What each copy gives: a tensor (K, ...), or a tuple of them with None in between.

        `streams`: (K, batch, length, hidden), or (batch, length, hidden), the same for all.
        `inputs`, `more`: what else the network gives the layer, the same for all but for what is in
        `made`.
        """

        def dims(value: Any) -> int | None:
            return 0 if any(value is each for each in made) else None

        places: list[int] = []

        def one(
            weights: dict[str, Tensor],
            hidden: Tensor,
            inputs: tuple[Any, ...],
            more: dict[str, Any],
        ) -> Any:
            output = functional_call(self.template, weights, (hidden, *inputs), more)
            if not isinstance(output, tuple):
                return output
            places[:] = [
                place if isinstance(part, Tensor) else -1 for place, part in enumerate(output)
            ]
            return tuple(part for part in output if isinstance(part, Tensor))

        weights = {name: self.of(name) for name in self._shapes}
        device = streams.device.type
        if torch.is_autocast_enabled(device):
            # Autocast sees the product of a linear map apart from its bias here, and would leave
            # their sum in fp32.
            low = torch.get_autocast_dtype(device)
            weights = {
                name: value.to(low) if name in self._linear else value
                for name, value in weights.items()
            }
        in_dims = (
            0,
            0 if streams.ndim == 4 else None,
            tuple(map(dims, inputs)),
            {name: dims(value) for name, value in more.items()},
        )
        # The CPU's fused attention knows no further dimension, and would be called once for each
        # copy.
        with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
            # Every copy draws dropout of its own.
            given = vmap(one, in_dims=in_dims, randomness="different")(
                weights, streams, inputs, more
            )
        if not places:
            return given
        parts = iter(given)
        return tuple(None if place < 0 else next(parts) for place in places)


class StreamLayer(Layer):
    """A layer of which every task has a copy: all of them run, or the one of the batch's task."""

    def __init__(
        self,
        layer: nn.Module,
        trunk: Stitched,
        unit: nn.Parameter | None,
        *,
        together: bool,
        ends: bool,
    ) -> None:
        """`unit`: mixes what the copies give. `together`: a unit is here or above, so all copies
        run. `ends`: this is the last one."""
        self.task_copies: PerTask | None
        if together:
            stacked = Stacked(layer, len(trunk.heads))
            super().__init__(stacked.template)
            self.stacked = stacked
            self.task_copies = None
        else:
            super().__init__(layer)
            self.task_copies = PerTask.copies(layer, trunk.heads)
        self.unit = unit
        self._ends = ends
        self._owners, self._route = trunk.heads, trunk.route
        self._subspaces = trunk.subspaces
        # The last layer gives the network what the trunk makes of the states.
        self._finish: Callable[[Tensor], Tensor] | None = None

    def finish_with(self, finish: Callable[[Tensor], Tensor]) -> None:
        """Put what `finish` makes of this layer's states in their place."""
        self._finish = finish

    def forward(self, hidden: Tensor, *inputs: Any, **more: Any) -> Any:
        """The states of all copies, or from the last unit on of the batch's task; and what else the
        layer gives."""
        route, own = self._route, self._owners.index(self._route.owner)
        if self.task_copies is not None:
            inputs = tuple(self._mine(value, own) for value in inputs)
            more = {name: self._mine(value, own) for name, value in more.items()}
            output = self.task_copies[route.owner](hidden, *inputs, **more)
            states, *rest = output if isinstance(output, tuple) else (output,)
            mine = states
        else:
            output = self.stacked(hidden, inputs, more, route.made)
            states, *rest = output if isinstance(output, tuple) else (output,)
            route.made += [part for part in rest if part is not None]
            if self.unit is not None:
                states = mixed(states, self.unit, self._subspaces, own if self._ends else None)
            mine = states if self._ends else states[own]
        route.states.append(mine)
        if self._finish is not None:
            states = self._finish(mine)
        return (states, *rest) if isinstance(output, tuple) else states

    def _mine(self, value: Any, own: int) -> Any:
        return value[own] if any(value is each for each in self._route.made) else value

    def output_matrices(self) -> Tensor:
        """(K, width inside, hidden): the last matrix of each copy's feed-forward block, whose
        columns are the states' channels."""
        layer = (
            self.stacked.template
            if self.task_copies is None
            else next(iter(self.task_copies.values()))
        )
        # Every layer of the library ends with this block.
        name, module = linear_maps(layer)[-1]
        if self.task_copies is None:
            weights = self.stacked.of(f"{name}.weight")
        else:
            weights = torch.stack(
                [copy.get_parameter(f"{name}.weight") for copy in self.task_copies.values()]
            )
        return weights if isinstance(module, Conv1D) else weights.mT


def mixed(streams: Tensor, unit: Tensor, subspaces: int, own: int | None) -> Tensor:
    """What a unit makes of K streams (K, batch, length, hidden), in fp32: all of them, or only
    stream `own`: (batch, length, hidden).

    `unit`: (K G, K G); row and column k G + g stand for subspace g of stream k, the g-th of G equal
    parts of its channels.
    """
    copies, batch, length, hidden = streams.shape
    with torch.autocast(streams.device.type, enabled=False):
        parts = (
            streams.float()
            .view(copies, batch * length, subspaces, -1)
            .transpose(1, 2)
            .reshape(copies * subspaces, -1)
        )
        rows = unit if own is None else unit[own * subspaces : (own + 1) * subspaces]
        result = (
            (rows @ parts).view(-1, subspaces, batch * length, hidden // subspaces).transpose(1, 2)
        )
        result = result.reshape(-1, batch, length, hidden).to(streams.dtype)
    return result if own is None else result[0]


class Stitched(Trunk):
    """K copies of all layers that are trained, with units that mix their states after some of
    them."""

    def __init__(
        self,
        config: Stitching,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
        *,
        subspaces: int,
    ) -> None:
        """`subspaces`: parts of the channels that a unit mixes by themselves."""
        super().__init__(owners)
        self.config = config
        self.subspaces = subspaces
        self.route = StreamRoute()
        self.backbone = make_backbone()
        layers = layer_list(self.backbone.network)
        depth = len(layers)
        trained = [
            number
            for number in range(depth)
            if any(parameter.requires_grad for parameter in layers[number].parameters())
        ]
        units = (
            trained
            if config.layers == "all"
            else chosen_layers(config.layers, depth, "sharing.layers")
        )
        if not units or units[0] not in trained:
            raise UserError(
                f"layer {units[0] if units else 0} is frozen (model.frozen_layers), so all streams "
                "are the same behind it",
                where="sharing.layers",
                fix="name layers that are trained, or freeze fewer",
            )
        self.placed: dict[int, StreamLayer] = {}
        for number in trained:
            unit = None
            if number in units:
                # A part starts from the same part of the other copies: while these are equal,
                # states are what they were without a unit.
                unit = nn.Parameter(
                    torch.kron(start(len(self.heads), config.own), torch.eye(subspaces))
                )
            placed = StreamLayer(
                layers[number], self, unit, together=number <= units[-1], ends=number == units[-1]
            )
            self.placed[number] = placed
            layers[number] = placed
        self._try()

    def _try(self) -> None:
        """Raise UserError when the layers cannot run K at a time."""
        if next(self.parameters()).is_meta:
            return  # Built to be measured, not to run.
        ids = torch.zeros(1, 2, dtype=torch.long)
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                self._begin(self.heads[0])
                self.backbone.network(input_ids=ids, attention_mask=torch.ones_like(ids))
        except (RuntimeError, ValueError, TypeError) as error:
            kind = self.backbone.network.config.model_type
            raise UserError(
                f"the layers of {kind} cannot run as {len(self.heads)} copies at once: "
                f"{str(error).strip().splitlines()[0][:200]}",
                where=f"sharing={self.config.name}",  # type: ignore[attr-defined]
                fix="type sharing=soft, whose copies run one at a time, or another model",
            ) from error
        self.train(was_training)

    def _begin(self, owner: str) -> None:
        self.route.owner = owner
        self.route.states, self.route.made = [], []

    def forward(self, task: str, batch: Batch) -> Encoded:
        """Token states and pooled vectors of the task's stream."""
        self._begin(self.owners[task])
        return self.backbone(batch)

    def learning_rates(self) -> dict[str, float]:
        """Units learn at a rate of their own."""
        return {
            name: self.config.lr for name, _ in self.named_parameters() if name.endswith(".unit")
        }

    def measures(self) -> dict[str, Any]:
        """`mixing`: for each unit by its layer, the row of each task: how much of each task's
        stream (and of each subspace of it, task by task) its next states have, in the order of the
        tasks with heads of their own."""
        found: dict[str, Any] = {}
        for number, layer in self.placed.items():
            if layer.unit is not None:
                rows = [[round(weight, 4) for weight in row] for row in layer.unit.tolist()]
                each = {
                    owner: rows[k * self.subspaces : (k + 1) * self.subspaces]
                    for k, owner in enumerate(self.heads)
                }
                found[f"layer {number}"] = {
                    owner: row[0] if self.subspaces == 1 else row for owner, row in each.items()
                }
        return {"mixing": found}


def start(size: int, own: float) -> Tensor:
    """(size, size): `own` on the diagonal, and what it lacks to one shared out equally over the
    rest of each row."""
    if size == 1:
        return torch.ones(1, 1)
    rest = (1 - own) / (size - 1)
    return torch.full((size, size), rest) + (own - rest) * torch.eye(size)
