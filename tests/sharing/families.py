"""Tiny backbones of several architectures, and a batch for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModel

from mtlcli.config.sharing import sharings
from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk
from tests.models.conftest import family_config

FAMILIES = ["bert", "deberta-v2", "modernbert", "t5", "bart", "gpt2", "llama"]
"""Layers that return a tensor or a tuple, take positions or hand them on, look both ways or back only."""


def family_backbone(family: str) -> Backbone:
    """Two layers of width 32, initialised with seed 0; without dropout."""
    torch.manual_seed(0)
    network = AutoModel.from_config(family_config(family, 100))
    return Backbone(network.get_encoder() if network.config.is_encoder_decoder else network, "mean").eval()


def family_batch() -> Batch:
    """Two inputs of 7 and 5 tokens."""
    ids = torch.randint(4, 100, (2, 7), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([7, 5])
    mask = torch.arange(7) < lengths[:, None]
    return Batch(ids * mask, mask, None, {}, lengths, np.arange(2), 2.0)


TASKS = ("cola", "stsb", "squad")
POOLING = {"bert": "pooler", "t5": "mean", "gpt2": "last", "llama": "last"}


def family_trunk(family: str, sharing: Any, *, frozen: int | None = None) -> Trunk:
    """A trunk over three tasks and a backbone of two layers and a vocabulary of 400, in evaluation mode."""

    def make_backbone() -> Backbone:
        torch.manual_seed(0)
        network = AutoModel.from_config(family_config(family, 400))
        network = network.get_encoder() if network.config.is_encoder_decoder else network
        backbone = Backbone(network, POOLING.get(family, "cls"))
        if frozen is not None:
            backbone.freeze(frozen)
        return backbone

    config = sharings.configs[sharing]() if isinstance(sharing, str) else sharing
    trunk: Trunk = sharings.implementation(config.name)(config, make_backbone, {task: task for task in TASKS})
    return trunk.eval()
