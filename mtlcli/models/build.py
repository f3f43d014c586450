"""Construction of the model of a run: backbone, sharing strategy, heads."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from mtlcli.config import Config, sharings
from mtlcli.errors import RunWarning
from mtlcli.models.backbone import Backbone, build_backbone
from mtlcli.models.files import BackboneFiles
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.tasks.base import TaskType


def build_model(
    config: Config,
    tasks: dict[str, TaskType[Any]],
    files: BackboneFiles,
    *,
    load_weights: bool = True,
) -> MultiTaskModel:
    """Build the model of a run, initialised from torch's generator.

    `load_weights=False` skips the pretrained weights, because those of a checkpoint are loaded
    next.
    """
    made: list[Backbone] = []

    def make_backbone() -> Backbone:
        with warnings.catch_warnings():
            if made:  # The first copy has warned of what the weights lack.
                warnings.simplefilter("ignore", RunWarning)
            backbone = build_backbone(files, config.model, load_weights=load_weights)
        if config.model.frozen_layers is not None:
            backbone.freeze(config.model.frozen_layers)
        made.append(backbone)
        return backbone

    owners = {name: task.config.head or name for name, task in tasks.items()}
    trunk = sharings.implementation(config.sharing.name)(config.sharing, make_backbone, owners)
    backbone = made[0]
    heads: dict[str, nn.Module] = {}
    for name in dict.fromkeys(owners.values()):
        dropout = next(
            p
            for p in (tasks[name].config.dropout, config.model.dropout, backbone.dropout)
            if p is not None
        )
        # With a pooler, there is a dense tanh layer before the head already.
        heads[name] = tasks[name].build_head(
            backbone.hidden,
            dropout,
            dense=backbone.pooling != "pooler",
            std=backbone.initializer_range,
        )
    return MultiTaskModel(
        trunk, heads, tasks, depth=backbone.depth, hidden=backbone.hidden, pooling=backbone.pooling
    )
