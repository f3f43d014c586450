"""Task embeddings: one backbone for all tasks, conditioned on a vector of the task whose batch it
reads.

Every task has a learned vector z. Linear maps, shared by the tasks, turn it into shifts: one that
is added to the word embeddings as BERT adds its segments (Devlin et al. 2019), and for every norm a
shift of its gain and one of its bias (conditional layer norm: Perez et al. 2018, "FiLM"; Pilault et
al. 2021, "Conditionally Adaptive Multi-Task Learning"):

    embedding(token) + A z        norm(x; gain + W z, bias + V z)

The maps start at zero, so that the model starts as that of `hard`. They are means over z's numbers,
not sums: Adam then moves a shift as fast as it would a free parameter, however long z is. A norm
without a bias (RMSNorm) has only its gain shifted. Pilault et al. multiply the pretrained gain,
where this strategy adds to it, and make their vectors from the task's name, where those here are
drawn from N(0, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import Merges, Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.models.shards import whole
from mtlcli.sharing.parts.layers import Layer
from mtlcli.sharing.task_embedding import TaskEmbeddingSharing


class Vector(nn.Module):
    """The learned vector of a task: (size,), at first drawn from N(0, 1)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(size))


@dataclass
class Condition(ForwardPass):
    """A pass that also holds the vector of the batch's task."""

    vector: Tensor
    """(size,)"""


class Shift(nn.Linear):
    """A linear map from a task's vector, at first zero. The result is divided by the vector's
    length."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(size, width, bias=False)
        nn.init.zeros_(self.weight)

    def forward(self, vector: Tensor) -> Tensor:
        """Return the shift (..., width) for a vector (..., size)."""
        return super().forward(vector) / self.in_features


class ConditionalEmbedding(Layer):
    """An embedding with the same shift added to every row."""

    def __init__(self, embedding: nn.Module, size: int) -> None:
        super().__init__(embedding)
        self.embedding = embedding
        self.shift = Shift(size, embedding.weight.shape[1])  # type: ignore[index, arg-type]

    def forward(self, ids: Tensor) -> Tensor:
        """Return the shifted embeddings (..., hidden) of token ids (...)."""
        return self.embedding(ids) + self.shift(current(Condition).vector)


class ConditionalNorm(Layer):
    """A norm with a shift of its gain, and of its bias if it has one."""

    def __init__(self, norm: nn.Module, size: int) -> None:
        super().__init__(norm)
        self.norm = norm
        self.shifts = nn.ModuleDict(
            {name: Shift(size, len(parameter)) for name, parameter in norm.named_parameters()}
        )

    def forward(self, *inputs: Any, **more: Any) -> Tensor:
        """Return the norm's output with its parameters shifted."""
        vector = current(Condition).vector
        shifted = {
            name: parameter + self.shifts[name](vector)
            for name, parameter in self.norm.named_parameters()
        }
        return functional_call(self.norm, shifted, inputs, more)


class TaskEmbedding(Trunk, Merges):
    """The backbone of `hard`, conditioned on a vector for each head."""

    packs = True
    first_token = True

    def __init__(
        self,
        config: TaskEmbeddingSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        """Raises UserError when norms are to be conditioned and the network has none with a
        gain."""
        super().__init__(owners)
        self.backbone = make_backbone()
        self.vectors = PerTask({owner: Vector(config.size) for owner in self.heads})
        network: Any = self.backbone.network
        if config.conditions != "norms":
            network.set_input_embeddings(
                ConditionalEmbedding(network.get_input_embeddings(), config.size)
            )
        if config.conditions != "embeddings":
            norms = [name for name, module in network.named_modules() if _is_norm(module)]
            if not norms:
                raise UserError(
                    f"{network.config.model_type} has no norms with weights that could be "
                    "conditioned",
                    where="sharing.conditions",
                    fix="type sharing.conditions=embeddings, or another model",
                )
            for name in norms:
                place, _, last = name.rpartition(".")
                setattr(
                    network.get_submodule(place),
                    last,
                    ConditionalNorm(network.get_submodule(name), config.size),
                )

    def begin(self, task: str, batch: Batch) -> Condition:
        """Return the pass of a batch with its task's vector."""
        vector: Any = self.vectors[self.owners[task]]
        return Condition(self.parts(task, batch), batch.attention_mask, vector.values)

    @torch.no_grad()
    def merged(self, task: str) -> Backbone:
        """Return a copy of the backbone whose embeddings and norms have the task's shifts in
        them."""
        backbone = deepcopy(self.backbone)
        vector: Any = self.vectors[self.owners[task]]
        network, head = backbone.network, backbone.language_head
        embedding = network.get_input_embeddings()
        if isinstance(embedding, ConditionalEmbedding):
            table: Any = embedding.embedding.weight
            if head is not None and head.tied:
                # What the words are written with has no shift.
                head.weight, head.tied = nn.Parameter(table.clone()), False
            table += embedding.shift(vector.values)
            network.set_input_embeddings(embedding.embedding)
        for name, module in list(network.named_modules()):
            if isinstance(module, ConditionalNorm):
                for each, parameter in module.norm.named_parameters():
                    parameter.add_(module.shifts[each](vector.values))
                place, _, last = name.rpartition(".")
                setattr(network.get_submodule(place), last, module.norm)
        return backbone

    def measures(self) -> dict[str, Any]:
        """Return `shift`: the root mean square of all shifts, for each head; and `cosines`: the
        cosines between the heads' shifts, one row for each head, in the order of `shift`."""
        with torch.no_grad():
            vectors = torch.stack([whole(vector.values) for vector in self.vectors.values()])  # type: ignore[arg-type]
            shifts = torch.cat(
                [
                    nn.functional.linear(vectors, whole(shift.weight)) / shift.in_features
                    for shift in self.modules()
                    if isinstance(shift, Shift)
                ],
                1,
            )
            directions = nn.functional.normalize(shifts)
            sizes = shifts.square().mean(1).sqrt().tolist()
            return {
                "shift": dict(zip(self.heads, sizes, strict=True)),
                "cosines": (directions @ directions.T).tolist(),
            }


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm with a gain: LayerNorm, or the RMSNorm that a model family
    brings."""
    gain = getattr(module, "weight", None)
    return (
        type(module).__name__.endswith("Norm") and isinstance(gain, nn.Parameter) and gain.ndim == 1
    )
