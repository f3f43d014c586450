"""The model of a checkpoint, ready to predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtlcli.config import Config
from mtlcli.config.section import replaced
from mtlcli.data.batches import InputFormat
from mtlcli.data.encoder import TextEncoder
from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import UserError
from mtlcli.evaluation.best_checkpoint import Found
from mtlcli.fast import accelerate
from mtlcli.models.build import build_model, check_weights, restore_weights, without_numbers
from mtlcli.models.files import BackboneFiles
from mtlcli.models.int8 import fit_device
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.packed import choose_packing
from mtlcli.models.precision import choose_precision, input_format
from mtlcli.tasks.base import TaskType


@dataclass
class SavedModel:
    """A model with the weights of a checkpoint, on its device."""

    model: MultiTaskModel
    """The model."""
    input_format: InputFormat
    """How features become rectangles of token ids."""
    precision: str
    """The number format: `fp32` or `bf16`."""


def restore(
    config: Config,
    found: Found,
    tasks: dict[str, TaskType[Any]],
    files: BackboneFiles,
    encoder: TextEncoder,
    *,
    ranks: Ranks,
    say: Callable[[str], None],
) -> SavedModel:
    """Build the model of a run, load the checkpoint into it and move it to the device of this
    rank. Raises UserError when the checkpoint does not fit the run."""
    folder = found.checkpoint.folder
    # Check the tensors against a model without memory first, because a file may ask for any size.
    check_weights(without_numbers(config, tasks, files), found.tensors, folder)
    model = build_model(config, tasks, files, load_weights=False)
    restore_weights(model, found.tensors, folder)
    precision = ranks.broadcast_json(choose_precision(config.runner.precision, ranks.device))
    if files.int8 and precision == "bf16":
        what = "the matrices of the model are in 8 bits, and the rest is computed in fp32"
        raise UserError(what, f"runner.precision={config.runner.precision}", "take it out")
    layout = input_format(encoder, precision, ranks.device)
    if (reason := choose_packing(config, model, layout, ranks.device)) is not None:
        say(f"packing: off, since {reason}")
    model.to(ranks.device)
    if files.int8:
        fit_device(model, ranks.device)
    # Layers are compiled for training alone.
    plain = replaced(config, {"runner.compile": "off"})
    accelerate(model, plain, ranks.device, precision)
    return SavedModel(model, layout, precision)
