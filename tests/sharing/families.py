"""Small random backbones of other families than BERT, under a strategy."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel

from mtlcli.config.sharing import sharings
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk
from tests.models.conftest import family_config

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
