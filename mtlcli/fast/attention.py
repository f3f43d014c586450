"""Attention as plain products in training on a CPU.

How long training takes with torch's kernel, beside plain products:

| | fp32 | bf16 |
|---|---|---|
| attention has dropout | 1.02 to 1.08 | 0.98 to 1.29 |
| attention has none | 0.94 | 1.24 to 1.42 |

The figures in fp32 are of a step. Those in bf16 are of a layer like MiniLM's, forward and backward,
with 24, 64 and 128 tokens, on one core of an AMD EPYC with AVX512-BF16. Where nothing is dropped,
the kernel is a fused one, and its backward pass is slow in bf16. A forward pass alone, as in
evaluation, takes 0.76 to 1.11 times as long with the kernel, the less the longer the inputs are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from mtlcli.models.backbone import Backbone

LAYERS = ("BertLayer", "RobertaLayer", "XLMRobertaLayer", "CamembertLayer", "ElectraLayer")
"""Classes of layers in the transformers library that are made of the same parts as BERT's."""
PLAIN = "plain_products"
"""Name under which `attend` is registered with transformers."""
DROPOUT = (
    "attention_probs_dropout_prob",
    "attention_dropout",
    "attn_pdrop",
    "dropout_rate",
)
"""Names that configurations have for the dropout in attention."""


def bert_layers(network: nn.Module) -> list[nn.Module]:
    """Return the layers like BERT's inside a network, in order."""
    return [
        module
        for module in network.modules()
        if type(module).__name__ in LAYERS and not module.is_decoder
    ]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention as the library's `eager` does, but with the layer's own dropout module,
    which may be a cheap one; `eager` draws bits by itself.

    `query`, `key`, `value`: (batch, heads, length, size). Returns the attended values (batch,
    length, heads, size) and the attention weights (batch, heads, length, length).
    """
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = module.dropout(torch.softmax(weights, -1))
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(PLAIN, attend)
AttentionMaskInterface.register(PLAIN, eager_mask)


class AttentionSwitch(nn.Module):
    """A module without parameters inside a backbone, which changes the attention of the network
    whenever the backbone is set to training or evaluation mode: plain products in training, torch's
    kernel in evaluation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that torch does not register the network as a submodule a second time.
        self._network = (network,)
        self._plain = PLAIN if bert_layers(network) else "eager"
        self.training = False

    def train(self, mode: bool = True) -> AttentionSwitch:
        """Set training or evaluation mode, as `nn.Module.train` does."""
        if mode != self.training:
            # The configurations of all modules change: copies of layers have their own, and the
            # network makes its masks for the implementation in its own.
            for module in self._network[0].modules():
                config: Any = getattr(module, "config", None)
                if getattr(config, "_attn_implementation", None) in (self._plain, "sdpa"):
                    config._attn_implementation = self._plain if mode else "sdpa"
        super().train(mode)
        return self


def switch_attention(backbone: Backbone, precision: str) -> None:
    """Let a backbone whose attention is torch's kernel compute it with plain products in training,
    in bf16, and in fp32 if it has dropout."""
    config = backbone.network.config
    text = config.get_text_config()
    slow = precision == "bf16" or any(getattr(text, name, None) for name in DROPOUT)
    if slow and config._attn_implementation == "sdpa":
        backbone.attention_switch = AttentionSwitch(backbone.network)
