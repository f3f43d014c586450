"""All that is only there for speed, behind one switch: `runner.fast`.

The rest of the program is the plain path, which runs without this room and gives the same results
within rounding, but for the elements that dropout drops. `accelerate` is the only way in.
"""

from __future__ import annotations

import torch

from mtlcli.config import Config
from mtlcli.config.weighting import Balancing
from mtlcli.fast.attention import switch_attention
from mtlcli.fast.dropout import cheapen
from mtlcli.fast.embeddings import make_sparse, rows_are_large
from mtlcli.fast.first_token import read_first_token
from mtlcli.fast.low_weights import cast_together
from mtlcli.fast.masks import leave_masks_unread
from mtlcli.fast.rows_at_once import record_rows
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import MultiTaskModel


def accelerate(model: MultiTaskModel, config: Config, device: torch.device, precision: str) -> None:
    """Make a model, which lies on its device, faster there, unless `runner.fast` is off.

    `precision`: the number format of the run, `fp32` or `bf16`. Names and values of parameters stay
    as they are.
    """
    if config.runner.fast == "off":
        return
    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    on_cpu = device.type == "cpu"
    sharded = config.runner.engine == "fsdp"
    compiled = config.runner.compile == "on"
    if compiled:
        # torch's compiler takes a second to import.
        from mtlcli.fast.compiled import compile_layers

        # First, so that what is put on a layer later stays outside of the compiled code.
        compile_layers(backbones, device, twice=model.augmentation is not None)
    if not on_cpu:
        # A step waits for the launches of kernels and for the host.
        leave_masks_unread()
        if precision == "bf16" and not sharded:
            # Before linear modules change their class.
            for backbone in backbones:
                cast_together(backbone)
    if not (sharded or compiled):
        record_rows(model)
    balanced = isinstance(config.weighting, Balancing)
    for backbone in backbones:
        # K gradient rows of a large vocabulary only fit into memory when they are sparse. torch
        # cannot cut sparse gradients into shards.
        if not sharded and (on_cpu or (balanced and rows_are_large(backbone, len(model.tasks)))):
            make_sparse(backbone)
    # On a GPU, the rest would add launches to save arithmetic.
    if not on_cpu:
        return
    if model.packing is None:
        read_first_token(model, backbones)
    for backbone in backbones:
        if not compiled:  # Compiled dropout draws bits of its own.
            cheapen(backbone.network)
        if config.model.attention == "auto":
            switch_attention(backbone, precision)
