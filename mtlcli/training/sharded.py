"""FSDP2 (`torch.distributed.fsdp.fully_shard`): each rank holds a shard of every parameter, of its
gradient and of its moments, for models that do not fit on one device.

A layer of the network is whole only while it runs, forwards and once more backwards, and its
gradient is summed over ranks as soon as the layer is through. Word embeddings are a unit of their
own, and all that lies outside the layers (heads, adapters, gates) is one more. Every rank has to
run the same units in the same order, and so as many passes of each task as any other rank (see
`task_batch.build_task_batch`). So far this has run on CPUs only.
"""

from __future__ import annotations

import warnings

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from mtlcli.distributed.process_group import Ranks
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import MultiTaskModel

LOW = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
"""The number formats of layers in bf16: weights are put together and states are passed on in bf16,
and gradients are summed in fp32. Shards and moments are in fp32, and so is all that lies outside
the layers."""


def shard(model: MultiTaskModel, ranks: Ranks, *, bf16: bool) -> None:
    """Cut all parameters of a model into shards, and move them to this rank's device, unit by unit.
    The model may lie in host memory, so that no device ever holds the whole of it.

    The parameters are other objects afterwards, with the same names. Raises UserError when the
    network cannot run in step on all devices.
    """
    backbones = [module for module in model.modules() if isinstance(module, Backbone)]
    for name in ("layerdrop", "encoder_layerdrop"):
        if getattr(backbones[0].network.config, name, 0):
            raise UserError(
                f"{backbones[0].network.config.model_type} skips layers at random ({name}), and "
                "all devices have to run the same ones",
                where="runner.engine=fsdp",
                fix="type runner.engine=ddp, or another model",
            )
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    policy = LOW if bf16 else MixedPrecisionPolicy()
    for backbone in backbones:
        for layer in backbone.layers():
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        for table in backbone.word_embeddings():
            fully_shard(table, mesh=mesh)
    # By default torch would leave the last unit whole after a forward pass without a backward pass.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for unit in model.modules():
        if isinstance(unit, FSDPModule):
            # Losses are divided by counts over all ranks, so gradients are sums, not means.
            unit.set_gradient_divide_factor(1.0)
            # gloo has no sum with a factor in it.
            unit.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "outputs")
    # Heads return views, and nothing changes them in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    # torch would settle the number format of each unit's gradients in the first forward pass, when
    # gradual unfreezing may have frozen whole units. There is no public way to do it sooner.
    fully_shard.state(model)._lazy_init()  # type: ignore[attr-defined]
