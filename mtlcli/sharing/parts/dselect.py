"""DSelect-k: a gate that ends with at most k experts, and is differentiable all the way.

Hazimeh et al. 2021, "DSelect-k: Differentiable Selection in the Mixture of Experts with
Applications to Multi-Task Learning". Each of k selectors chooses one of n experts by the binary
code of its number: m = ceil(log2 n) numbers z pass the smooth-step function S, and expert i gets
the product of S(z_j) where bit j of i is 1 and 1 - S(z_j) where it is 0. Once all |z_j| >= gamma /
2 that product is 1 for one expert and 0 for all others. A softmax over the selectors weighs them.

This is the paper's static gate: one choice for a task, not one for each token. The entropy term is
then a function of the parameters alone, the same on every rank and however a batch is cut. Where n
is no power of two, some codes belong to no expert: the paper adds 1 / (the sum over the experts)
for each selector to the loss; here the products are divided by that sum too, so that the weights
sum to one before the gate has converged as well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GAMMA = 1.0
"""Width of the interval in which the smooth-step function is neither 0 nor 1."""
LR = 0.01
"""Peak learning rate of the gates. z has to travel gamma / 2, and would not do so within one
fine-tuning at the backbone's rate."""
EPS = 1e-6


def smooth_step(z: Tensor) -> Tensor:
    """Return the smooth-step function of z: 0 below -gamma/2, 1 above gamma/2, between them the
    cubic polynomial that joins both with slope 0; same shape."""
    inside = z.clamp(-GAMMA / 2, GAMMA / 2)
    return -2 / GAMMA**3 * inside**3 + 3 / (2 * GAMMA) * inside + 0.5


class DSelectK(nn.Module):
    """The gate of one task over n experts, of which at most k keep a weight."""

    codes: Tensor

    def __init__(self, experts: int, selected: int) -> None:
        """`experts`: n, at least 2. `selected`: k."""
        super().__init__()
        bits = (experts - 1).bit_length()
        self._all_codes_used = experts == 2**bits
        # (n, m): bit j of expert i. The codes follow from n, so they are not saved.
        codes = (torch.arange(experts)[:, None] >> torch.arange(bits)) & 1
        self.register_buffer("codes", codes.bool(), persistent=False)
        self.z = nn.Parameter(torch.empty(selected, bits).uniform_(-GAMMA / 100, GAMMA / 100))
        self.selectors = nn.Parameter(torch.empty(selected).uniform_(-0.05, 0.05))

    def _products(self) -> Tensor:
        """Return the share that each selector gives each expert: (k, n). A row sums to at most
        one."""
        steps = smooth_step(self.z)[:, None]
        return torch.where(self.codes, steps, 1 - steps).prod(-1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the experts' weights (..., n) for states (..., width). They are the same for every
        token and sum to one."""
        products = self._products()
        weights = self.selectors.softmax(0) @ (products / products.sum(-1, keepdim=True))
        return weights.expand(*hidden.shape[:-1], -1)

    def penalty(self, entropy: float) -> Tensor:
        """Return `entropy` times the sum of the selectors' entropies, plus a term that keeps
        selectors on codes that belong to an expert where some do not: scalar."""
        products = self._products()
        penalty = -entropy * (products * (products + EPS).log()).sum()
        return penalty if self._all_codes_used else penalty + (1 / products.sum(-1)).sum()
