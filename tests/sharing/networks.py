"""A strategy's trunk over a small network of any family."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel

from mtlcli.config import sharings
from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk
from tests.models.conftest import family_config

TASKS = {"a": "a", "b": "b", "c": "b"}
"""Two tasks with heads of their own, and one that borrows."""


def make(family: str) -> Backbone:
    """The same weights every time, without dropout."""
    torch.manual_seed(0)
    network = AutoModel.from_config(family_config(family, 50))
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    # Biases and gains of a fresh network are 0 and 1, and would hide what is done to them.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return Backbone(network, "mean")


def trunk_of(family: str, config: Any, owners: dict[str, str] = TASKS) -> Trunk:
    """The strategy that `config` names."""
    trunk = sharings.implementation(config.name)(config, lambda: make(family), owners)
    assert isinstance(trunk, Trunk)
    return trunk.eval()


def some_batch(seed: int = 0) -> Batch:
    """Three inputs, one of them shorter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 50, (3, 7), generator=generator)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[0, 4:] = False
    return Batch(ids * mask, mask, None, {}, mask.sum(1), torch.arange(3).numpy(), 3.0)
