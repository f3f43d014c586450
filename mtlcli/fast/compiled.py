"""Layers that torch compiles for training (`runner.compile=on`): between a layer's products,
inductor fuses small operators, such as dropout, the sum with the residual and the norm, into a few
kernels.

All layers of one kind share the compiled code, which takes batches of any size. The numbers are
those of the plain layers within rounding; dropout draws other elements. Evaluation takes the plain
layers, so that another command gives the same scores to the last digit. Attention of our own, such
as that of packed batches, runs between two compiled parts of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils._triton import has_triton
from transformers import AttentionInterface

from mtlcli.errors import RunError, UserError
from mtlcli.fast.mixin import put_on
from mtlcli.models.backbone import Backbone

BACKEND = "inductor"
"""The name of torch's compiler."""
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
            what = f"torch cannot compile a layer ({type(self).__name__}): {_reason(error)}"
            raise RunError(what, WHERE, FIX) from error


def compile_layers(
    backbones: Sequence[Backbone], device: torch.device, *, twice: bool = False
) -> None:
    """Let torch compile the layers of backbones for training. `twice`: whether a backward pass may
    run a second time.

    Raises UserError when there is no compiler for the device.
    """
    _require_compiler(device)
    if twice:
        # torch would write the gradients of states into the memory of what the first pass has kept.
        torch._functorch.config.donated_buffer = False
    # torch would otherwise give up after eight variants without a word.
    torch._dynamo.config.recompile_limit = MOST
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for name, function in list(AttentionInterface().items()):
        # It asks for the batch that is in the backbone, for which it would be compiled anew.
        if function.__module__.startswith(("mtlcli.models.", "mtlcli.sharing.")):
            AttentionInterface.register(name, torch.compiler.disable(function))
    for layer in (layer for backbone in backbones for layer in backbone.layers()):
        own = torch.compile(type(layer).forward.__get__(layer), backend=BACKEND, dynamic=True)
        put_on(Compiled, layer, compiled=own)


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        if not has_triton():
            what = "torch's compiler needs the package triton and a GPU that it knows"
            raise UserError(what, WHERE, FIX)
        return
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        what = "there is no C++ compiler (g++, or the one that CXX names)"
        raise UserError(what, WHERE, f"install g++, or {FIX}") from error


def _reason(error: Exception) -> str:
    """Return the first line of an error of torch's compiler, and the first one of the program that
    has failed under it."""
    first, *others = str(error).strip().splitlines()
    more = next((line.strip() for line in others if "error:" in line), None)
    return first if more is None else f"{first} ({more})"
