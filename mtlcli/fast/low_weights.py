"""The weights of a layer in the number format of its products, all at once.

Autocast casts each weight and each bias where it is used, and each of their gradients back: on a
GPU, where a step waits for the launches of kernels, a quarter of them. Here a layer casts all of
its weights in one operator before it runs, and all of their gradients in one after. The numbers are
the same to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mtlcli.fast.mixin import put_on
from mtlcli.models.backbone import Backbone
from mtlcli.sharing.parts.stacked import Stacked


class Cast(torch.autograd.Function):
    """A cast of many tensors, whose gradients are cast back together."""

    @staticmethod
    def forward(context: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in another number format. Those without a gradient stay so."""
        context.set_materialize_grads(False)
        low = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(low, list(tensors))
        context.mark_non_differentiable(
            *[each for each, tensor in zip(low, tensors, strict=True) if not tensor.requires_grad]
        )
        return tuple(low)

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> Any:
        """Return the gradients in fp32."""
        there = [gradient for gradient in gradients if gradient is not None]
        full = [torch.empty_like(gradient, dtype=torch.float32) for gradient in there]
        torch._foreach_copy_(full, there)
        left = iter(full)
        return None, *(None if gradient is None else next(left) for gradient in gradients)


class LowWeights:
    """Mixin for the class of a layer, which computes with weights that are cast all at once."""

    low_weights: list[tuple[nn.Module, str]]
    """The linear modules of the layer, each with the name of one of its parameters."""

    def forward(self: Any, *inputs: Any, **more: Any) -> Any:
        """Do the same as the layer."""
        weights = [module._parameters[name] for module, name in self.low_weights]
        kind = weights[0].device.type
        # A shard of torch's FSDP has been put together in the low format already.
        if not torch.is_autocast_enabled(kind) or weights[0].dtype != torch.float32:
            return super().forward(*inputs, **more)  # type: ignore[misc]
        cast = Cast.apply(torch.get_autocast_dtype(kind), *weights)
        try:
            for (module, name), each in zip(self.low_weights, cast, strict=True):
                module._parameters[name] = each
            return super().forward(*inputs, **more)  # type: ignore[misc]
        finally:
            for (module, name), each in zip(self.low_weights, weights, strict=True):
                module._parameters[name] = each


def cast_together(backbone: Backbone) -> None:
    """Let the layers of a backbone cast their weights at once under autocast. Layers that run as
    copies under `torch.vmap` stay as they are."""
    _cast_together(backbone.network)


def _cast_together(module: nn.Module) -> None:
    for child in module.children():
        if not isinstance(child, GradientCheckpointingLayer):
            if not isinstance(child, Stacked):
                _cast_together(child)
            continue
        found = [
            (linear, name)
            for linear in child.modules()
            # A subclass may compute in another number format.
            if type(linear) is nn.Linear
            for name, parameter in linear._parameters.items()
            if parameter is not None
        ]
        if found:
            put_on(LowWeights, child, low_weights=found)
