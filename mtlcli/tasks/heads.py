"""The heads: small private modules on top of the backbone. Weights start as in BERT: normal(0,
std), biases 0 (Devlin et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtlcli.tasks.base import Encoded


def _initialise(head: nn.Module, std: float) -> None:
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


def _dense(hidden: int, dropout: float, layers: int) -> nn.Sequential:
    """Dropout, then `layers` times: dense layer, tanh, dropout."""
    modules: list[nn.Module] = [nn.Dropout(dropout)]
    for _ in range(layers):
        modules += [nn.Linear(hidden, hidden), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(*modules)


class OutputLayer(nn.Linear):
    """A linear map that is computed in fp32 under autocast, too.

    bf16 has 8 significant bits: a regression output near 3 would be one of a few dozen values, and
    rows that differ would be ranked alike.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) in any number format -> (..., outputs) in fp32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class PooledHead(nn.Module):
    """One vector of outputs per input, from the pooled vector."""

    def __init__(
        self, hidden: int, outputs: int, dropout: float, *, layers: int, std: float = 0.02
    ) -> None:
        """`layers`: dense tanh layers before the output layer."""
        super().__init__()
        self.layers = _dense(hidden, dropout, layers)
        self.output = OutputLayer(hidden, outputs)
        _initialise(self, std)

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """`logits`: (batch, outputs)."""
        return {"logits": self.output(self.layers(encoded.pooled))}


class SpanHead(nn.Module):
    """A start and an end score per token, from the token states."""

    def __init__(self, hidden: int, dropout: float, *, layers: int = 0, std: float = 0.02) -> None:
        """`layers`: dense tanh layers before the output layer."""
        super().__init__()
        self.layers = _dense(hidden, dropout, layers)
        self.output = OutputLayer(hidden, 2)
        _initialise(self, std)

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """`start` and `end`: (batch, length)."""
        start, end = self.output(self.layers(encoded.hidden)).unbind(-1)
        return {"start": start, "end": end}
