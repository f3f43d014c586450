"""Streams: the parallel states of K task copies of the network, which units between the layers mix.

A batch of one task runs through all copies as far as the last unit, and through its task's copy
above. The weights of the copies that run together are stored with a leading dimension of K, and the
library's layer is called once for all of them (`torch.func.vmap`). This takes K times the
arithmetic of one copy, in products that are K times as large, but only the Python overhead of one
call and of vmap. On a CPU this saves time where copies are small and many, and costs a few percent
where they are large (scripts/bench/copies.md).

All tasks share the embeddings, and the norms or poolers above the layers.
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
    """Route that also keeps the outputs of the layers for the batch that is in the backbone just
    now."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []
        """(batch, length, hidden) for each layer that has copies: the states of the batch's task,
        mixed where a unit follows."""
        self.made: list[Tensor] = []
        """Outputs other than the states that layers pass to the layers above (T5's position bias),
        for each copy: (K, ...) each."""


def linear_maps(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the linear modules of a layer, by name, lowest first."""
    return [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


class Stacked(nn.Module):
    """K copies of a layer, which are called at once."""

    def __init__(self, layer: nn.Module, copies: int) -> None:
        """All copies start from the weights of `layer`, whose own parameters are removed."""
        super().__init__()
        self.copies = copies
        restore(layer)
        self.weights = nn.ParameterDict()
        self._shapes: dict[str, torch.Size] = {}
        maps = linear_maps(layer)
        self._linear = {f"{name}.{kind}" for name, module in maps for kind in ("weight", "bias")}
        # (K, in, out), as in GPT-2: the gradient of a product then has the layout of the weights,
        # and need not be copied.
        self._turned = {f"{name}.weight" for name, module in maps if isinstance(module, nn.Linear)}
        for name, parameter in list(layer.named_parameters()):
            stacked = parameter.detach().expand(copies, *parameter.shape).clone()
            stacked = stacked.mT.contiguous() if name in self._turned else stacked
            self._shapes[name] = stacked.shape[1:]
            # Parameters with one dimension in a copy are stored flat, because parameters with one
            # dimension have no weight decay.
            stacked = stacked.flatten() if parameter.ndim == 1 else stacked
            self.weights[name.replace(".", "/")] = nn.Parameter(
                stacked, requires_grad=parameter.requires_grad
            )
            owner, _, last = name.rpartition(".")
            layer.get_submodule(owner).register_parameter(last, None)
        self.template = layer

    def of(self, name: str) -> Tensor:
        """Return a parameter of the layer for all copies: (K, ...)."""
        stacked: Tensor = self.weights[name.replace(".", "/")].view(
            self.copies, *self._shapes[name]
        )
        return stacked.mT if name in self._turned else stacked

    def forward(
        self, streams: Tensor, inputs: tuple[Any, ...], more: dict[str, Any], made: list[Tensor]
    ) -> Any:
        """Return the outputs of all copies: a tensor (K, ...), or a tuple of them with None in
        between.

        `streams`: (K, batch, length, hidden), or (batch, length, hidden) where all copies read the
        same. `inputs`, `more`: the other arguments that the network gives the layer. They are the
        same for all copies, except those that are in `made`, which are (K, ...).
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
            # Under vmap, autocast sees the product of a linear map apart from its bias, and would
            # leave their sum in fp32.
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
        # The CPU's fused attention takes no further dimension, so vmap would call it once for each
        # copy.
        with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
            # "different": every copy draws its own dropout.
            given = vmap(one, in_dims=in_dims, randomness="different")(
                weights, streams, inputs, more
            )
        if not places:
            return given
        parts = iter(given)
        return tuple(None if place < 0 else next(parts) for place in places)


class StreamLayer(Layer):
    """A layer with a copy for every task. Either all copies run, or only the copy of the batch's
    task."""

    def __init__(
        self,
        layer: nn.Module,
        trunk: Stitched,
        unit: nn.Parameter | None,
        *,
        together: bool,
        ends: bool,
    ) -> None:
        """`unit`: the matrix that mixes the copies' states. `together`: this layer or one above has
        a unit, so all copies run. `ends`: this layer has the last unit."""
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
        # The last layer of a trunk may return a function of the states in their place.
        self._finish: Callable[[Tensor], Tensor] | None = None

    def finish_with(self, finish: Callable[[Tensor], Tensor]) -> None:
        """Let this layer return `finish(states)` in the place of its states."""
        self._finish = finish

    def forward(self, hidden: Tensor, *inputs: Any, **more: Any) -> Any:
        """Return the states of all copies, or, from the last unit on, those of the batch's task;
        and the layer's other outputs."""
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
        """Return the last matrix of each copy's feed-forward block, whose columns are the channels
        of the states: (K, width inside, hidden)."""
        layer = (
            self.stacked.template
            if self.task_copies is None
            else next(iter(self.task_copies.values()))
        )
        # The feed-forward block comes last in every layer of the library.
        name, module = linear_maps(layer)[-1]
        if self.task_copies is None:
            weights = self.stacked.of(f"{name}.weight")
        else:
            weights = torch.stack(
                [copy.get_parameter(f"{name}.weight") for copy in self.task_copies.values()]
            )
        return weights if isinstance(module, Conv1D) else weights.mT


def mixed(streams: Tensor, unit: Tensor, subspaces: int, own: int | None) -> Tensor:
    """Mix K streams (K, batch, length, hidden) with a unit, in fp32. Returns all streams, or only
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
        """`subspaces`: number of equal parts of the channels, each of which has weights of its own
        in a unit."""
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
                # A part starts as a mean of this part in all copies: while the copies are equal,
                # the states are the same as without a unit.
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
        """Raise UserError when the layers cannot run as K copies at once."""
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
                where=f"sharing={self.config.name}",
                fix="type sharing=soft, whose copies run one at a time, or another model",
            ) from error
        self.train(was_training)

    def _begin(self, owner: str) -> None:
        self.route.owner = owner
        self.route.states, self.route.made = [], []

    def forward(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors of the task's stream."""
        self._begin(self.owners[task])
        return self.backbone(batch)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of the units, which have one of their own."""
        return {
            name: self.config.lr for name, _ in self.named_parameters() if name.endswith(".unit")
        }

    def measures(self) -> dict[str, Any]:
        """Return `mixing`: for each unit, by its layer, the row of each task: the weight of each
        task's stream (and of each subspace of it, task by task) in this task's next states, in the
        order of the tasks with heads of their own."""
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
    """Return a matrix (size, size) with `own` on the diagonal, and what is missing to one spread
    equally over the rest of each row."""
    if size == 1:
        return torch.ones(1, 1)
    rest = (1 - own) / (size - 1)
    return torch.full((size, size), rest) + (own - rest) * torch.eye(size)
