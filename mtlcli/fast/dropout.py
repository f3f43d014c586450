"""Dropout on a CPU whose random bits cost little.

torch draws a number for every element with `bernoulli_`, which takes five times as long as the rest
of dropout. Here one 64-bit draw of the same generator serves four elements: an element is kept when
its 16 bits are large enough. The probability that this gives is a multiple of 2**-16, and kept
elements are scaled by that probability, so the mean is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtlcli.sharing.parts.stacked import Stacked

LEVELS = 1 << 16


class CheapDropout(nn.Dropout):
    """Dropout with cheap random bits on a CPU; `nn.Dropout` on other devices."""

    def forward(self, input: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        dropped = round(self.p * LEVELS)
        if not self.training or not dropped or dropped == LEVELS or input.device.type != "cpu":
            return super().forward(input)
        draws = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: input.numel()].view(input.shape)
        noise = torch.ge(
            bits, dropped - LEVELS // 2, out=torch.empty_like(input, requires_grad=False)
        )
        return input * noise.mul_(LEVELS / (LEVELS - dropped))


def cheapen(module: nn.Module) -> None:
    """Replace every `nn.Dropout` inside a module by `CheapDropout`, except in `Stacked`, which runs
    its copies under `torch.vmap`: only torch's own dropout draws different numbers for each of the
    copies there."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, CheapDropout(child.p))
        elif not isinstance(child, Stacked):
            cheapen(child)
