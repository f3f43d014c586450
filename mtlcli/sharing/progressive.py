"""Progressive learning: tasks enter in stages, and what earlier ones have learned is kept. Two
forms.

`columns`: Rusu et al. 2016, "Progressive Neural Networks". Each stage has a column of its own, a
copy of the backbone, and reads the columns of the stages before it through lateral connections, in
the paper's adapter form. With h_i^(j) what layer i of column j gives, what stands above layer i of
column k (layer i + 1, the final norm, the head) reads

    h_i^(k) + U relu(V [a_1 h_i^(1); ...; a_(k-1) h_i^(k-1)])

with scalars a and a bottleneck V. The paper adds the lateral term inside the nonlinearity of layer
i + 1; a transformer's layer is no single matrix, so here it is added to the layer's input. U starts
at zero. The paper's columns start at random; here the first is the backbone as it was built, and
each later one begins with the weights that the column before it has when the stage begins: from
scratch, a small task would otherwise have only its own data to learn a whole backbone from. Only
the stage's own tasks are drawn, and no gradient leaves their column, so that earlier ones stay as
they are, to the bit; they are read without dropout.

`distill`: Li & Hoiem 2016, "Learning without Forgetting". One backbone for all; from the second
stage on, each batch has an auxiliary loss that holds the outputs of the earlier tasks' heads for
its inputs to those that they gave when the stage began:

    strength * sum over earlier heads of KL(softmax(then / T) || softmax(now / T)),   T = 2

and for heads of regression tasks the squared difference. As in the paper only the new tasks' data
are drawn. The paper writes the cross entropy, which differs by a constant, and lets the earlier
heads learn on; here they stay as they are, so that every parameter's gradient comes from the tasks
it belongs to. Earlier heads are evaluated without dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlcli.config.sharing import ProgressiveSharing, stages_of
from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import ParameterTable, Trunk
from mtlcli.models.per_task import TaskModules
from mtlcli.sharing.parts.layers import Layer, hidden_of, layer_list, with_hidden
from mtlcli.tasks.base import Encoded, TaskType

TEMPERATURE = 2.0
"""T of the paper."""


def build(
    config: ProgressiveSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
) -> Trunk:
    """Build the trunk of the form that the config names. Raises UserError when columns do not fit
    the network."""
    return (Columns if config.form == "columns" else Distilled)(config, make_backbone, owners)


class Staged(Trunk):
    """Base class of the two forms."""

    def __init__(self, config: ProgressiveSharing, owners: dict[str, str]) -> None:
        super().__init__(owners)
        self.stage = 0
        """The present stage, from 0."""
        self.count = len(order := stages_of(config, owners))
        self._stage_of = {
            owners[task]: number for number, stage in enumerate(order) for task in stage
        }

    def stage_of(self, task: str) -> int:
        """Return the stage in which a task, or the task whose head it uses, is trained."""
        return self._stage_of[self.owners[task]]

    def enter(self, stage: int, *, anew: bool) -> None:
        """See Trunk."""
        self.stage = stage


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


class ColumnLayer(Layer):
    """A layer of a column, with the lateral connection from the layers beside it if there are
    any."""

    def __init__(self, layer: nn.Module, lateral: Lateral | None, beside: list[Tensor]) -> None:
        """`beside`: the outputs of the same layer in the earlier columns. All columns share the
        list."""
        super().__init__(layer)
        self.layer = layer
        self.lateral = lateral
        self._beside = (beside,)

    def forward(self, *inputs: Any, **more: Any) -> Any:
        """Return the layer's output, with the lateral term added."""
        output = self.layer(*inputs, **more)
        states = hidden_of(output)
        (beside,) = self._beside
        if self.lateral is not None:
            output = with_hidden(output, states + self.lateral(beside).to(states.dtype))
        beside.append(states)
        return output


class Columns(Staged):
    """A backbone for each stage, with lateral connections from those before it."""

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
        self._beside: list[list[Tensor]] = [[] for _ in layer_list(first.network)]
        for number, column in enumerate(self.columns.values()):
            layers = layer_list(column.network)  # type: ignore[arg-type]
            for layer, beside in enumerate(self._beside):
                lateral = Lateral(number, first.hidden, config.size) if number else None
                layers[layer] = ColumnLayer(layers[layer], lateral, beside)

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

    def encode(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors of the column of the task's stage. Later columns
        are not computed."""
        for beside in self._beside:
            beside.clear()
        stage = self.stage_of(task)
        for number in range(stage):
            with torch.no_grad(), _without_dropout(self.columns[f"stage{number}"]) as column:
                column(batch)
        encoded: Encoded = self.columns[f"stage{stage}"](batch)
        for beside in self._beside:
            beside.clear()
        return encoded

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
                module.scales.detach() for module in column.modules() if isinstance(module, Lateral)
            ]
            if scales:
                laterals[str(number)] = torch.stack(scales).abs().mean(0).tolist()
        return {"stage": self.stage, "laterals": laterals}


class Distilled(Staged):
    """One backbone, and from the second stage on a copy of its weights as they were when the stage
    began."""

    def __init__(
        self,
        config: ProgressiveSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(config, owners)
        self.config = config
        self.backbone = make_backbone()
        self.register_buffer("newest", torch.zeros(()))
        # The copies are buffers, so that a resumed run has them. A buffer's name cannot have dots.
        # Parameters that are never trained need no copy.
        self._taught = {}
        if self.count > 1:
            self._taught = {
                name: f"then/{name.replace('.', '/')}"
                for name, each in self.backbone.named_parameters()
                if each.requires_grad
            }
        for name, buffer in self._taught.items():
            self.register_buffer(buffer, self.backbone.get_parameter(name).detach().clone())

    def enter(self, stage: int, *, anew: bool) -> None:
        """Keep a copy of the present weights when a stage after the first begins."""
        super().enter(stage, anew=anew)
        if anew and stage > 0:
            with torch.no_grad():
                for name, buffer in self._taught.items():
                    self.get_buffer(buffer).copy_(self.backbone.get_parameter(name))

    def batch_loss(
        self, batch: Batch, encoded: Encoded, heads: TaskModules, tasks: dict[str, TaskType[Any]]
    ) -> Tensor | None:
        """Return how far the outputs of the earlier heads have moved since the stage began, times
        `strength`: scalar, summed over the batch's inputs. None if there are no earlier heads or
        `strength` is 0."""
        earlier = [owner for owner in self.heads if self.stage_of(owner) < self.stage]
        if not earlier or self.config.strength == 0:
            return None
        with torch.no_grad(), _without_dropout(self.backbone) as backbone:
            then = functional_call(
                backbone,
                {name: self.get_buffer(buffer) for name, buffer in self._taught.items()},
                (batch,),
            )
        total = encoded.pooled.new_zeros((), dtype=torch.float32)
        for owner in earlier:
            with _without_dropout(heads[owner]) as head:
                fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
                now, kept = (functional_call(head, fixed, (each,)) for each in (encoded, then))
            for name, value in now.items():
                total = total + _distance(value, kept[name], tasks[owner], batch.attention_mask)
        term = self.config.strength * total
        if self.training:
            self.get_buffer("newest").copy_(term.detach() / len(batch))
        return term

    def measures(self) -> dict[str, Any]:
        """Return `stage`, from 0, and `distillation`: the auxiliary loss of the newest batch in
        training, for one input."""
        return {"stage": self.stage, "distillation": float(self.get_buffer("newest"))}


def _distance(now: Tensor, then: Tensor, task: TaskType[Any], mask: Tensor) -> Tensor:
    """Return how far a head's outputs for a batch have moved, summed over inputs: scalar fp32."""
    now, then = now.float(), then.float()
    if task.loss_kind == "regression":
        return (now - then).square().sum()
    if task.token_outputs:
        # Padding takes no part. Its logits get a finite number, because with -inf, 0 times the
        # difference of two infinities would not be a number.
        now, then = now.masked_fill(~mask, -1e4), then.masked_fill(~mask, -1e4)
    now, then = (torch.log_softmax(each / TEMPERATURE, -1) for each in (now, then))
    return (then.exp() * (then - now)).sum()


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the module in evaluation mode, and restore its mode afterwards."""
    training = module.training
    module.eval()
    try:
        yield module
    finally:
        module.train(training)
