"""Layers that torch compiles for training (`runner.compile=on`): between a layer's products,
inductor fuses small operators, such as dropout, the sum with the residual and the norm, into a few
kernels.

All layers of one kind share the compiled code, which takes batches of any size. The numbers are
those of the plain layers within rounding; dropout draws other elements. Evaluation takes the plain
layers, so that another command gives the same scores to the last digit. Attention of our own, such
as that of packed batches, runs between two compiled parts of a layer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from transformers import AttentionInterface

from mtlcli.errors import RunError, UserError
from mtlcli.fast.mixin import put_on
from mtlcli.models.backbone import Backbone
from mtlcli.sharing.parts.stacked import Stacked

BACKEND = "inductor"
"""The name of torch's compiler."""
COMPILERS = ("g++", "gcc", "clang++", "clang", "c++", "cl")
"""Names of programs one of which inductor, or Triton under it, needs."""
WHERE, FIX = "runner.compile=on", "type runner.compile=off, or leave it out"
MOST = 64
"""The most variants of one piece of code, for layers that differ."""


class Compiled:
    """Mixin for the class of a layer that is compiled for training."""

    compiled: Callable[..., Any]
    """The layer's own forward pass, compiled when it first runs."""

    def forward(self: Any, *inputs: Any, **more: Any) -> Any:
        """Return what the layer returns. Raises RunError when torch cannot compile it."""
        if not self.training:
            return super().forward(*inputs, **more)  # type: ignore[misc]
        try:
            return self.compiled(*inputs, **more)
        except TorchDynamoException as error:
            lines = str(error).strip().splitlines()
            what = f"torch cannot compile a layer ({type(self).__name__}): {lines[0]}"
            raise RunError(what, WHERE, FIX) from error


def compile_layers(backbones: Sequence[Backbone], sharing: str) -> None:
    """Let torch compile the layers of backbones for training. `sharing`: the name of the sharing
    strategy.

    Raises UserError where layers cannot be compiled, or there is no compiler.
    """
    layers = [layer for backbone in backbones for layer in backbone.layers()]
    if any(_inside(layer) for layer in layers):
        what = f"sharing={sharing} puts modules into the layers that ask for the task of a batch"
        raise UserError(what, WHERE, FIX)
    if any(isinstance(module, Stacked) for each in backbones for module in each.modules()):
        what = f"sharing={sharing} runs copies of a layer at once (torch.vmap)"
        raise UserError(what, WHERE, FIX)
    if not any(shutil.which(name) for name in COMPILERS):
        raise UserError("there is no C++ compiler", WHERE, f"install g++, or {FIX}")
    # torch would otherwise give up after eight variants without a word.
    torch._dynamo.config.recompile_limit = MOST
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for name, function in list(AttentionInterface().items()):
        # It asks for the batch that is in the backbone, for which it would be compiled anew.
        if function.__module__.startswith(("mtlcli.models.", "mtlcli.sharing.")):
            AttentionInterface.register(name, torch.compiler.disable(function))
    for layer in layers:
        own = torch.compile(type(layer).forward.__get__(layer), backend=BACKEND, dynamic=True)
        put_on(Compiled, layer, compiled=own)


def _inside(layer: nn.Module) -> bool:
    """Return whether a sharing strategy has put a module into a layer."""
    return any(type(module).__module__.startswith("mtlcli.sharing") for module in layer.modules())
