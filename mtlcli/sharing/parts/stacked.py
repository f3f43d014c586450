"""K copies of a layer that run at once.

The weights of the copies are stored with a leading dimension of K, and the library's layer is
called once for all of them (`torch.func.vmap`). This takes K times the arithmetic of one copy, in
products that are K times as large, but only the Python overhead of one call and of vmap. On a CPU
this saves time where copies are small and many, and costs a few percent where they are large
(scripts/bench/copies.md).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.pytorch_utils import Conv1D


def linear_maps(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the linear modules of a layer, by name, lowest first."""
    return [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]


class Stacked(nn.Module):
    """K copies of a layer, which are called at once."""

    def __init__(self, layer: nn.Module, copies: int) -> None:
        """All copies start from the weights of `layer`, whose own parameters are removed."""
        super().__init__()
        self.copies = copies
        self.weights = nn.ParameterDict()
        self._shapes: dict[str, torch.Size] = {}
        maps = linear_maps(layer)
        self._linear = {f"{name}.{kind}" for name, module in maps for kind in ("weight", "bias")}
        # (K, in, out), as in GPT-2: the gradient of a product then has the layout of the weights,
        # and need not be copied.
        self._turned = {f"{name}.weight" for name, module in maps if isinstance(module, nn.Linear)}
        for name, parameter in list(layer.named_parameters()):
            stacked = parameter.detach().expand(copies, *parameter.shape).clone()
            stacked = stacked.mT.contiguous() if name in self._turned else stacked
            self._shapes[name] = stacked.shape[1:]
            # Parameters with one dimension in a copy are stored flat, because parameters with one
            # dimension have no weight decay.
            stacked = stacked.flatten() if parameter.ndim == 1 else stacked
            self.weights[name.replace(".", "/")] = nn.Parameter(
                stacked, requires_grad=parameter.requires_grad
            )
            owner, _, last = name.rpartition(".")
            layer.get_submodule(owner).register_parameter(last, None)
        self.template = layer

    def of(self, name: str) -> Tensor:
        """Return a parameter of the layer for all copies: (K, ...)."""
        stacked: Tensor = self.weights[name.replace(".", "/")].view(
            self.copies, *self._shapes[name]
        )
        return stacked.mT if name in self._turned else stacked

    def forward(
        self, streams: Tensor, inputs: tuple[Any, ...], more: dict[str, Any], made: list[Tensor]
    ) -> Any:
        """Return the outputs of all copies: a tensor (K, ...), or a tuple of them with None in
        between.

        `streams`: (K, batch, length, hidden), or (batch, length, hidden) where all copies read the
        same. `inputs`, `more`: the other arguments that the network gives the layer. They are the
        same for all copies, except those that are in `made`, which are (K, ...).
        """

        def dims(value: Any) -> int | None:
            return 0 if any(value is each for each in made) else None

        places: list[int] = []

        def one(
            weights: dict[str, Tensor],
            hidden: Tensor,
            inputs: tuple[Any, ...],
            more: dict[str, Any],
        ) -> Any:
            output = functional_call(self.template, weights, (hidden, *inputs), more)
            if not isinstance(output, tuple):
                return output
            places[:] = [
                place if isinstance(part, Tensor) else -1 for place, part in enumerate(output)
            ]
            return tuple(part for part in output if isinstance(part, Tensor))

        weights = {name: self.of(name) for name in self._shapes}
        device = streams.device.type
        if torch.is_autocast_enabled(device):
            # Under vmap, autocast sees the product of a linear map apart from its bias, and would
            # leave their sum in fp32.
            low = torch.get_autocast_dtype(device)
            weights = {
                name: value.to(low) if name in self._linear else value
                for name, value in weights.items()
            }
        in_dims = (
            0,
            0 if streams.ndim == 4 else None,
            tuple(map(dims, inputs)),
            {name: dims(value) for name, value in more.items()},
        )
        if torch.compiler.is_exporting():
            # A graph is for batches of any size, which vmap would have to know.
            each = [
                one(*_of_copy((weights, streams, inputs, more), in_dims, copy))
                for copy in range(self.copies)
            ]
            if not places:
                return torch.stack(each)
            parts = iter([torch.stack(part) for part in zip(*each, strict=True)])
            return tuple(None if place < 0 else next(parts) for place in places)
        # The CPU's fused attention takes no further dimension, so vmap would call it once for each
        # copy.
        with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
            # "different": every copy draws its own dropout.
            given = vmap(one, in_dims=in_dims, randomness="different")(
                weights, streams, inputs, more
            )
        if not places:
            return given
        parts = iter(given)
        return tuple(None if place < 0 else next(parts) for place in places)


def _of_copy(values: Any, dims: Any, copy: int) -> Any:
    """Return the arguments of one copy: an entry of each tensor whose `dims` is 0, as in vmap."""
    if isinstance(values, dict):
        nested = dims if isinstance(dims, dict) else dict.fromkeys(values, dims)
        return {name: _of_copy(value, nested[name], copy) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(_of_copy(*pair, copy) for pair in zip(values, dims, strict=True))
    return values if dims is None else values[copy]
