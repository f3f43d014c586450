"""The network of an exported folder in which tasks share parameters in a way that the transformers
library has no network for. `modeling_mtl.py`, which lies in such a folder, builds it here."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from mtlcli.config import sharings
from mtlcli.config.run import Model
from mtlcli.export.network import batch_of
from mtlcli.models.backbone import Backbone, build_backbone
from mtlcli.models.files import BackboneFiles
from mtlcli.models.multitask import Trunk


class TaskTrunk(nn.Module):
    """A trunk, as one of its tasks reads it."""

    def __init__(self, trunk: Trunk, task: str, hidden: int, pad_id: int) -> None:
        super().__init__()
        self.trunk = trunk
        self._task, self.hidden, self._pad_id = task, hidden, pad_id

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return token states (batch, length, hidden) and pooled vectors (batch, hidden) for
        (batch, length) int64 each."""
        batch = batch_of(input_ids, attention_mask, token_type_ids, self._pad_id)
        encoded = self.trunk(self._task, batch)
        return encoded.hidden, encoded.pooled


def fields_of(
    sharing: dict[str, Any], owners: dict[str, str], task: str, pad_id: int, dropout: float | None
) -> dict[str, Any]:
    """Return what `build` needs, in a form that JSON can hold. `sharing`: the options of the
    strategy. `owners`: for every task its head owner."""
    return {
        "sharing": sharing,
        # As a list, since the order of the tasks matters, and the library sorts what it writes.
        "owners": [list(pair) for pair in owners.items()],
        "task": task,
        "pad_id": pad_id,
        "dropout": dropout,
    }


def build(fields: dict[str, Any], architecture: dict[str, Any], pooling: str) -> TaskTrunk:
    """Return the network that `fields` describe, with random weights. `architecture`: the
    configuration of the backbone."""
    kind = sharings.configs[fields["sharing"]["name"]]
    options = TypeAdapter(kind).validate_python(fields["sharing"])
    model = Model(
        kind="scratch",
        name=None,
        pooling=pooling,  # type: ignore[arg-type]
        dropout=fields["dropout"],
    )
    files = BackboneFiles(None, deepcopy(architecture), "", False, None, None)
    made: list[Backbone] = []

    def make_backbone() -> Backbone:
        made.append(build_backbone(files, model, load_weights=False))
        return made[-1]

    trunk = sharings.implementation(options.name)(options, make_backbone, dict(fields["owners"]))
    return TaskTrunk(trunk.to(torch.float32), fields["task"], made[0].hidden, fields["pad_id"])
