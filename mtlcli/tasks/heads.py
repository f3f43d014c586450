"""The heads: small private modules on top of the backbone. Their weights start as in BERT:
normal(0, std), with biases 0 (Devlin et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from mtlcli.tasks.base import Encoded, Foundation


def _initialise(head: nn.Module, std: float) -> None:
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)


def _dense(hidden: int, dropout: float, layers: int) -> nn.Sequential:
    """Return a dropout layer, followed by `layers` times a dense layer, tanh and dropout."""
    modules: list[nn.Module] = [nn.Dropout(dropout)]
    for _ in range(layers):
        modules += [nn.Linear(hidden, hidden), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(*modules)


class OutputLayer(nn.Linear):
    """A linear layer that is computed in fp32 even under autocast.

    bf16 has 8 significant bits: a regression output near 3 could take only a few dozen values, and
    different rows would have the same rank.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., inputs) in any number format to (..., outputs) in fp32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class Head(nn.Module):
    """The layers of a head: dense tanh layers and an output layer, with dropout before each."""

    def __init__(
        self, hidden: int, outputs: int, dropout: float, *, layers: int, std: float = 0.02
    ) -> None:
        """`layers`: the number of dense tanh layers before the output layer."""
        super().__init__()
        self.layers = _dense(hidden, dropout, layers)
        self.output = OutputLayer(hidden, outputs)
        _initialise(self, std)


class PooledHead(Head):
    """A head that gives one vector of outputs per input, from the pooled vector."""

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """Return `logits`: (batch, outputs)."""
        return {"logits": self.output(self.layers(encoded.pooled))}


class TokenHead(Head):
    """A head that gives one vector of outputs per token, from the token states."""

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """Return `logits`: (batch, length, outputs)."""
        return {"logits": self.output(self.layers(encoded.hidden))}


class EntityHead(Head):
    """A head that gives one vector of outputs per input, from the states of two of its tokens."""

    def __init__(
        self, hidden: int, outputs: int, dropout: float, *, layers: int, std: float = 0.02
    ) -> None:
        """`layers`: the number of dense tanh layers before the output layer."""
        super().__init__(2 * hidden, outputs, dropout, layers=layers, std=std)

    def forward(self, encoded: Encoded, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Return `logits`: (batch, outputs). `first`, `second`: token positions (batch,)."""
        inputs = torch.arange(len(first), device=first.device)
        states = [encoded.hidden[inputs, places] for places in (first, second)]
        return {"logits": self.output(self.layers(torch.cat(states, dim=-1)))}


class SpanHead(Head):
    """A head that gives a start and an end score per token, from the token states."""

    def __init__(self, hidden: int, dropout: float, *, layers: int = 0, std: float = 0.02) -> None:
        """`layers`: the number of dense tanh layers before the output layer."""
        super().__init__(hidden, 2, dropout, layers=layers, std=std)

    def forward(self, encoded: Encoded) -> dict[str, Tensor]:
        """Return `start` and `end`: (batch, length)."""
        start, end = self.output(self.layers(encoded.hidden)).unbind(-1)
        return {"start": start, "end": end}


class MaskedHead(nn.Module):
    """A dense layer, GELU and a layer norm, then an output layer over the vocabulary, as in BERT
    (Devlin et al. 2019).

    The output layer begins as a copy of the backbone's word embeddings and is private to the task.
    In BERT the two are one matrix. Here a tied matrix would add a gradient of its full size in each
    step to embeddings whose gradients are those of the batch's tokens alone, and where each task
    has a backbone of its own there is no one table to be tied to.
    """

    def __init__(self, foundation: Foundation) -> None:
        super().__init__()
        vocabulary, width = foundation.embeddings.shape
        self.dense = nn.Linear(foundation.hidden, width)
        nn.init.normal_(self.dense.weight, std=foundation.std)
        nn.init.zeros_(self.dense.bias)
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(foundation.embeddings.detach().clone())
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor) -> Tensor:
        """Return the scores of all tokens of the vocabulary in fp32: (..., vocabulary). `states`:
        token states (..., hidden)."""
        found = self.norm(gelu(self.dense(states)))
        return linear(found, self.weight, self.bias).float()
