"""Construction of the model of a run: backbone, sharing strategy, heads; the weights of a
checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.config import Config, augmentations, sharings
from mtlcli.disk import size_text
from mtlcli.errors import RunWarning, UserError
from mtlcli.models.backbone import Backbone, build_backbone
from mtlcli.models.decoder import build_decoder
from mtlcli.models.files import BackboneFiles
from mtlcli.models.int8 import quantise, require_torchao, stored
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.shards import copy_whole
from mtlcli.models.start import Start
from mtlcli.tasks.base import Foundation, TaskType
from mtlcli.tasks.decoder import DecoderHead

OTHER_CHECKPOINT = "give another checkpoint of the run, or start another run"
"""What a user can do when a checkpoint does not fit the run."""

ALIGNMENT = 64
"""The bytes to whose multiples torch aligns memory on a CPU."""


def build_model(
    config: Config,
    tasks: dict[str, TaskType[Any]],
    files: BackboneFiles,
    *,
    load_weights: bool = True,
    start: Start | None = None,
) -> MultiTaskModel:
    """Build the model of a run, initialised from torch's generator.

    `load_weights=False` skips the pretrained weights, because those of a checkpoint are loaded
    next. `start`: the weights that stand in their place, and the heads in `config.init.heads`.
    Raises UserError when these do not fit.
    """
    if files.int8:
        require_torchao("the run's model")
    made: list[Backbone] = []
    in_text = any(task.answers_in_text for task in tasks.values())

    def make_backbone() -> Backbone:
        with warnings.catch_warnings():
            if made:  # The first copy has warned of what the weights lack.
                warnings.simplefilter("ignore", RunWarning)
            backbone = build_backbone(
                files,
                config.model,
                load_weights=load_weights and start is None,
                language=in_text and not files.has_decoder,
            )
        if in_text and files.has_decoder:
            encoder = files.encoder()
            backbone.decoder = DecoderHead(
                make_decoder(),
                start_id=encoder.start_id,
                end_id=encoder.end_id,
                pad_id=encoder.pad_id,
            )
        if start is not None:
            start.fill_backbone(backbone)
        if config.model.frozen_layers is not None:
            backbone.freeze(config.model.frozen_layers)
        made.append(backbone)
        return backbone

    def make_decoder() -> nn.Module:
        return build_decoder(files, config.model, load_weights=load_weights and start is None)

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
        heads[name] = tasks[name].head_on(
            Foundation(
                backbone.hidden,
                dropout,
                dense=backbone.pooling != "pooler",
                std=backbone.initializer_range,
                embeddings=backbone.word_embeddings()[0].weight,
                decoder=make_decoder if files.has_decoder else None,
            )
        )
    model = MultiTaskModel(
        trunk, heads, tasks, depth=backbone.depth, hidden=backbone.hidden, pooling=backbone.pooling
    )
    if start is not None:
        start.fill_trunk(model, config)
        start.fill_heads(model, config.init.heads or [])
    augmentation = config.augmentation
    model.augmentation = augmentations.implementation(augmentation.name)(augmentation)
    _align(model)
    if files.int8:
        quantise(model)
    return model


def _align(model: nn.Module) -> None:
    """Give tensors that lie anywhere in memory a place where torch's own would lie. Weights that
    were read from a file lie as they lie in the file, and on some CPUs a product is rounded by
    where its factors begin: a run that is resumed would differ in the last bit."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def without_numbers(
    config: Config,
    tasks: dict[str, TaskType[Any]],
    files: BackboneFiles,
    start: Start | None = None,
) -> MultiTaskModel:
    """Return a run's model on the meta device, with shapes but no numbers. This takes milliseconds
    and no memory, even for a large model. Raises UserError when `start` does not fit."""
    with torch.device("meta"):
        return build_model(config, tasks, files, load_weights=False, start=start)


def check_size(
    config: Config, tasks: dict[str, TaskType[Any]], files: BackboneFiles, folder: Path
) -> None:
    """Raise UserError when a run's model is larger than the one of the checkpoint in `folder`,
    before memory for it is allocated."""
    model = without_numbers(config, tasks, files)
    asked = sum(tensor.nbytes for tensor in model.state_dict().values())
    if asked > (size := (folder / "model.safetensors").stat().st_size):
        what = (
            f"model.safetensors does not fit the run: it has {size_text(size)}, the model needs "
            f"{size_text(asked)}"
        )
        raise UserError(
            what, where=str(folder), fix="bring back the run's own config.yaml and backbone"
        )


def restore_weights(model: MultiTaskModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Load the weights of the checkpoint in `folder` into a model. Raises UserError when they do
    not fit the model."""
    check_weights(model, tensors, folder)
    for name, tensor in stored(model.state_dict()).items():
        copy_whole(tensor, tensors[name])


def check_weights(model: MultiTaskModel, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise UserError when the weights of the checkpoint in `folder` do not fit a model, which may
    be on the meta device, without numbers."""
    try:
        check_tensors(
            tensors,
            {
                name: (tensor.shape, tensor.dtype)
                for name, tensor in stored(model.state_dict()).items()
            },
        )
    except ValueError as error:
        raise UserError(
            f"model.safetensors does not fit the run: {error}",
            where=str(folder),
            fix=OTHER_CHECKPOINT,
        ) from error


def check_tensors(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, tuple[torch.Size, torch.dtype]],
    prefix: str = "",
) -> None:
    """Raise ValueError unless `tensors` are the expected tensors, in shape and dtype, and all their
    numbers are finite."""
    for name in (*expected, *tensors):
        if name not in tensors:
            raise ValueError(f"{prefix}{name} is missing")
        if name not in expected:
            raise ValueError(f"it has {prefix}{name}, which the run does not have")
        found, (shape, kind) = tensors[name], expected[name]
        if found.shape != shape:
            raise ValueError(
                f"{prefix}{name} has the shape {list(found.shape)} instead of {list(shape)}"
            )
        if found.dtype != kind:
            raise ValueError(f"{prefix}{name} holds {found.dtype} instead of {kind}")
        if not found.isfinite().all():
            raise ValueError(f"{prefix}{name} is not finite")
