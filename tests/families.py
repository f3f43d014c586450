"""Strategies over tiny backbones of several architectures, and a batch for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from mtlcli.config.sharing import sharings
from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk
from tests.unit.models.conftest import family_config

FAMILIES = ["bert", "deberta-v2", "modernbert", "t5", "bart", "gpt2", "llama"]
"""Layers that return a tensor or a tuple, take positions or hand them on, look both ways or back
only."""
VOCABULARY = 400
TASKS = ("cola", "stsb", "squad")
POOLING = {"bert": "pooler", "t5": "mean", "gpt2": "last", "llama": "last"}


def family_backbone(family: str, pooling: str = "mean") -> Backbone:
    """Two layers of width 32 in evaluation mode, the same weights every time."""
    torch.manual_seed(0)
    network = AutoModel.from_config(family_config(family, VOCABULARY))
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    # Biases and gains of a fresh network are 0 and 1, and would hide what is done to them.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return Backbone(network, pooling).eval()


def family_batch() -> Batch:
    """Three inputs of 7, 5 and 4 tokens."""
    ids = torch.randint(5, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 5, 4])
    mask = torch.arange(7) < lengths[:, None]
    return Batch(ids * mask, mask, None, {}, lengths.numpy(), np.arange(3), 3.0, 0)


def family_trunk(
    family: str, sharing: Any, owners: Mapping[str, str] | None = None, *, frozen: int | None = None
) -> Trunk:
    """A strategy (its name or its config) over TASKS or `owners`, in evaluation mode."""

    def make_backbone() -> Backbone:
        backbone = family_backbone(family, POOLING.get(family, "cls"))
        if frozen is not None:
            backbone.freeze(frozen)
        return backbone

    config = sharings.configs[sharing]() if isinstance(sharing, str) else sharing
    trunk: Trunk = sharings.implementation(config.name)(
        config, make_backbone, dict(owners or {task: task for task in TASKS})
    )
    return trunk.eval()
