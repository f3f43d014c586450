"""Tiny backbones of several architectures, and a batch for them."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModel

from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
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
