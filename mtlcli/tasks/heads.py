"""The heads: small private modules on top of the backbone. Weights start as in BERT: normal(0, std), biases 0 (Devlin et al. 2019)."""

from __future__ import annotations

from torch import Tensor, nn

from mtlcli.tasks.base import Encoded


def _initialise(head: nn.Module, std: float) -> None:
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


class PooledHead(nn.Module):
    """One vector of outputs per input, from the pooled vector."""

    def __init__(self, hidden: int, outputs: int, dropout: float, *, dense: bool, std: float = 0.02) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if dense:
            layers += [nn.Linear(hidden, hidden), nn.Tanh(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(hidden, outputs)
        _initialise(self, std)

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """`logits`: (batch, outputs)."""
        return {"logits": self.output(self.layers(encoded.pooled))}


class SpanHead(nn.Module):
    """A start and an end score per token, from the token states."""

    def __init__(self, hidden: int, dropout: float, *, std: float = 0.02) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, 2)
        _initialise(self, std)

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """`start` and `end`: (batch, length)."""
        start, end = self.output(self.dropout(encoded.hidden)).unbind(-1)
        return {"start": start, "end": end}
