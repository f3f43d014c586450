"""A model whose matrices are in 8 bits (`mtl compress --method int8`).

Dynamic quantisation by torchao: each row of a matrix is whole numbers of 8 bits and a scale, which
are computed once; what is multiplied with it is rounded to 8 bits in each pass, with a scale for
each token. The matrices are those of the backbone's layers; embeddings, poolers, norms and heads
stay as they are.

On a CPU without VNNI, products of 8 bits overflow, so both factors are rounded to 7 bits there.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone


def require_torchao(where: str) -> None:
    """Raise UserError when torchao is not installed. `where`: what asks for it."""
    if find_spec("torchao") is None:
        what = "matrices in 8 bits need the package torchao, which is not installed"
        raise UserError(what, where, "type pip install 'mtlcli[int8]'")


def quantise(model: nn.Module) -> int:
    """Round the matrices in the layers of a model's backbones to 8 bits, in place. Returns their
    number."""
    layers = [
        layer
        for backbone in model.modules()
        if isinstance(backbone, Backbone)
        for layer in backbone.layers()
    ]
    found = [each for layer in layers for each in layer.modules() if _has_matrix(each)]
    for module in dict.fromkeys(found):
        _round(module, reduce_range=False)
    return len(found)


def fit_device(model: nn.Module, device: torch.device) -> None:
    """Round the matrices of a model to 7 bits where products of 8 bits overflow on a device."""
    from torchao.utils import should_reduce_range

    if not should_reduce_range(device):
        return
    for module in model.modules():
        if isinstance(module, nn.Linear) and _is_rounded(module.weight):
            weight: Any = module.weight
            module.weight = nn.Parameter(weight.dequantize(), requires_grad=False)
            _round(module, reduce_range=True)


def stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a file holds for those of a model: for a matrix in 8 bits, its
    numbers and its scales. They share memory with the model's."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _is_rounded(tensor):
            parts, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
            found |= {f"{name}.{part}": getattr(tensor, part) for part in parts}
        else:
            found[name] = tensor
    return found


def _is_rounded(tensor: Tensor) -> bool:
    """Return whether a tensor is one of torchao's, without importing torchao. Other subclasses, as
    the shards of FSDP, hold a tensor in parts, too."""
    return type(tensor).__module__.startswith("torchao.")


def _has_matrix(module: nn.Module) -> bool:
    # Some strategies keep the weights of copies of a layer in one tensor, and none in the layer.
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter


def _round(module: nn.Module, *, reduce_range: bool) -> None:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    config = Int8DynamicActivationInt8WeightConfig(
        set_inductor_config=False, reduce_range=reduce_range
    )
    quantize_(module, config)
