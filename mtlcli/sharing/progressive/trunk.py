"""Progressive networks: tasks enter in stages, and each stage has a column of its own.

Rusu et al. 2016, "Progressive Neural Networks". A column is a copy of the backbone. It reads the
columns of the stages before it through lateral connections, in the paper's adapter form. With
h_i^(j) what layer i of column j gives, what stands above layer i of column k (layer i + 1, the
final norm, the head) reads

    h_i^(k) + U relu(V [a_1 h_i^(1); ...; a_(k-1) h_i^(k-1)])

with scalars a and a bottleneck V. The paper adds the lateral term inside the nonlinearity of layer
i + 1; a transformer's layer is no single matrix, so here it is added to the layer's input. U starts
at zero. The paper's columns start at random; here the first is the backbone as it was built, and
each later one begins with the weights that the column before it has when the stage begins: from
scratch, a small task would otherwise have only its own data to learn a whole backbone from. Only
the stage's own tasks are drawn, and no gradient leaves their column, so that earlier ones stay as
they are, to the bit; they are read without dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import CannotMerge, Merges, ParameterTable
from mtlcli.models.shards import whole
from mtlcli.sharing.parts.layers import Layer, hidden_of, layer_list, with_hidden
from mtlcli.sharing.parts.staged import StagedTrunk, without_dropout
from mtlcli.sharing.progressive import ProgressiveSharing
from mtlcli.tasks.base import Encoded


class Lateral(nn.Module):
    """A lateral connection from the earlier columns into one layer's output."""

    def __init__(self, columns: int, hidden: int, size: int) -> None:
        """`columns`: number of earlier columns."""
        super().__init__()
        self.scales = nn.Parameter(torch.ones(columns))
        self.down = nn.Linear(columns * hidden, size)
        self.up = nn.Linear(size, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: list[Tensor]) -> Tensor:
        """Return the lateral term (batch, length, hidden) for the states of the earlier columns,
        (batch, length, hidden) each."""
        scaled = [scale * each for scale, each in zip(self.scales, states, strict=True)]
        return self.up(torch.relu(self.down(torch.cat(scaled, -1))))


@dataclass
class ColumnsPass(ForwardPass):
    """A pass in which the layers of a column leave what they give to the columns after it."""

    states: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """The output (batch, length, hidden) of each layer, by column and layer, from 0."""


class ColumnLayer(Layer):
    """A layer of a column, with the lateral connection from the layers beside it if there are
    any."""

    def __init__(self, layer: nn.Module, lateral: Lateral | None, column: int, depth: int) -> None:
        """`column`, `depth`: the numbers of the column and of the layer in it, from 0."""
        super().__init__(layer)
        self.layer = layer
        self.lateral = lateral
        self._column, self._depth = column, depth

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output, with the lateral term added."""
        output = self.layer(*inputs, **more)
        states = hidden_of(output)
        known = current(ColumnsPass).states
        if self.lateral is not None:
            beside = [known[column, self._depth] for column in range(self._column)]
            output = with_hidden(output, states + self.lateral(beside).to(states.dtype))
        known[self._column, self._depth] = states
        return output


class Columns(StagedTrunk, Merges):
    """A backbone for each stage, with lateral connections from those before it."""

    packs = True

    def __init__(
        self,
        config: ProgressiveSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(config, owners)
        first = make_backbone()
        self.columns = nn.ModuleDict(
            {f"stage{number}": deepcopy(first) if number else first for number in range(self.count)}
        )
        for number, column in enumerate(self.columns.values()):
            layers = layer_list(column.network)  # type: ignore[arg-type]
            for depth, layer in enumerate(layers):
                lateral = Lateral(number, first.hidden, config.size) if number else None
                layers[depth] = ColumnLayer(layer, lateral, number, depth)

    def enter(self, stage: int, *, anew: bool) -> None:
        """Copy the weights of the column before into the stage's column, except its lateral
        connections, when a stage after the first begins."""
        super().enter(stage, anew=anew)
        if anew and stage > 0:
            before, column = (
                self.columns[f"stage{number}"].state_dict() for number in (stage - 1, stage)
            )
            for name, tensor in column.items():
                if ".lateral." not in name:
                    tensor.copy_(before[name])

    def begin(self, task: str, batch: Batch) -> ColumnsPass:
        """Return the pass of a batch, in which no column has given anything yet."""
        return ColumnsPass(self.parts(task, batch), batch.attention_mask)

    def encode(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors of the column of the task's stage. Later columns
        are not computed."""
        stage = self.stage_of(task)
        for number in range(stage):
            with torch.no_grad(), without_dropout(self.columns[f"stage{number}"]) as column:
                column(batch)
        encoded: Encoded = self.columns[f"stage{stage}"](batch)
        return encoded

    def merged(self, task: str) -> Backbone:
        """Return a copy of the first column, for a task of the first stage. Raises CannotMerge for
        others."""
        if self.stage_of(task) > 0:
            raise CannotMerge("a task of a later stage also reads the columns of the stages before")
        backbone: Backbone = deepcopy(self.columns["stage0"])  # type: ignore[assignment]
        layers = layer_list(backbone.network)
        for number, column_layer in enumerate(layers):
            layers[number] = column_layer.layer  # type: ignore[assignment]
        return backbone

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. Those of a column belong to the tasks of its stage: tasks
        of later stages read the column, but leave it as it is."""
        table = super().parameter_table()
        for number, column in enumerate(self.columns.values()):
            tasks = tuple(task for task in self.owners if self.stage_of(task) == number)
            table.change(column.parameters(), users=tasks)
        return table

    def measures(self) -> dict[str, Any]:
        """Return `stage`, from 0, and `laterals`: for each later column the absolute scale of each
        earlier one, as a mean over layers."""
        laterals = {}
        for number, column in enumerate(self.columns.values()):
            scales = [
                whole(module.scales.detach())
                for module in column.modules()
                if isinstance(module, Lateral)
            ]
            if scales:
                laterals[str(number)] = torch.stack(scales).abs().mean(0).tolist()
        return {"stage": self.stage, "laterals": laterals}
