"""Cross-stitch: a copy of the network for each task, and units that mix the copies' states
linearly.

Misra et al. 2016, "Cross-stitch Networks for Multi-task Learning": after a layer, x_k <- sum_j
alpha_kj x_j, with alpha learned from a start near the identity, at 100 to 1000 times the learning
rate of the rest. With the identity, the model is `none` except for the embeddings; with 1/K
everywhere, all streams are equal.

The paper copies the whole network; here all tasks share the embeddings, since otherwise a task's
batch would need the tables of all tasks, which are most of a small model's weights. Above the last
unit a task needs only its own copy. The paper has a unit for each channel; here each layer has one
matrix, as in Ruder et al. 2019, with the weight of each task's stream in each other's. The config
chooses the layers that have a unit; the paper puts one behind every pooling layer.

A batch of one task runs through all copies as far as the last unit, and through its task's copy
above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mtlcli.config.sharing import Stitching
from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current, running
from mtlcli.models.multitask import ParameterTable, Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.sharing.cross_stitch import CrossStitchSharing
from mtlcli.sharing.parts.layers import Layer, chosen_layers, layer_list
from mtlcli.sharing.parts.stacked import Stacked, linear_maps


@dataclass
class StreamPass(ForwardPass):
    """A pass that also keeps the outputs of the layers."""

    states: list[Tensor] = field(default_factory=list)
    """(batch, length, hidden) for each layer that has copies: the states of the batch's task, mixed
    where a unit follows."""
    made: list[Tensor] = field(default_factory=list)
    """Outputs other than the states that layers pass to the layers above (T5's position bias), for
    each copy: (K, ...) each."""


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
        self._owners = trunk.heads
        self._subspaces = trunk.subspaces
        # The last layer of a trunk may return a function of the pass in the place of its states.
        self._finish: Callable[[StreamPass], Tensor] | None = None

    def finish_with(self, finish: Callable[[StreamPass], Tensor]) -> None:
        """Let this layer return `finish(pass)` in the place of its states."""
        self._finish = finish

    def forward(self, hidden: Tensor, *inputs: Any, **more: Any) -> Any:
        """Return the states of all copies, or, from the last unit on, those of the batch's task;
        and the layer's other outputs."""
        passing = current(StreamPass)
        own = self._owners.index(passing.owner)
        if self.task_copies is not None:

            def mine_of(value: Any) -> Any:
                return value[own] if any(value is each for each in passing.made) else value

            inputs = tuple(map(mine_of, inputs))
            more = {name: mine_of(value) for name, value in more.items()}
            output = self.task_copies[passing.owner](hidden, *inputs, **more)
            states, *rest = output if isinstance(output, tuple) else (output,)
            mine = states
        else:
            output = self.stacked(hidden, inputs, more, passing.made)
            states, *rest = output if isinstance(output, tuple) else (output,)
            passing.made += [part for part in rest if part is not None]
            if self.unit is not None:
                states = mixed(states, self.unit, self._subspaces, own if self._ends else None)
            mine = states if self._ends else states[own]
        passing.states.append(mine)
        if self._finish is not None:
            states = self._finish(passing)
        return (states, *rest) if isinstance(output, tuple) else states

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

    unmergeable = "each layer of the task also reads the states of the other tasks' columns"

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
        mask = torch.ones_like(ids)
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), running(StreamPass([(self.heads[0], 1)], mask.bool())):
                self.backbone.network(input_ids=ids, attention_mask=mask)
        except (RuntimeError, ValueError, TypeError) as error:
            kind = self.backbone.network.config.model_type
            raise UserError(
                f"the layers of {kind} cannot run as {len(self.heads)} copies at once: "
                f"{str(error).strip().splitlines()[0][:200]}",
                where=f"sharing={self.config.name}",
                fix="type sharing=soft, whose copies run one at a time, or another model",
            ) from error
        self.train(was_training)

    def begin(self, task: str, batch: Batch) -> StreamPass:
        """Return the pass of a batch, in which no layer has run."""
        return StreamPass(self.parts(task, batch), batch.attention_mask)

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. Units have a learning rate of their own."""
        table = super().parameter_table()
        units = [layer.unit for layer in self.placed.values() if layer.unit is not None]
        table.change(units, lr=self.config.lr)
        return table

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


class CrossStitch(Stitched):
    """K copies of the layers with a K x K matrix after each chosen one."""

    def __init__(
        self,
        config: CrossStitchSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(config, make_backbone, owners, subspaces=1)
