"""DARE: drop most numbers of each task vector at random, and rescale the others.

Yu et al. 2024, "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a
Free Lunch":

    tau_i' = m_i * tau_i / density      with m_i ~ Bernoulli(density)
    theta  = theta_0 + scale * sum_i tau_i'

The paper puts any method behind the dropping; here it is task arithmetic, as in peft's
`dare_linear`. It drops up to 99% of models of billions of numbers; small models bear less, so the
default density is 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtlcli.merging.base import Copies, State


def merge(copies: Copies, *, scale: float, density: float, seed: int) -> State:
    """Return the initial weights and the scaled sum of the thinned task vectors."""
    generator = torch.Generator().manual_seed(seed)

    def change(name: str, vectors: list[Tensor]) -> Tensor:
        stacked = torch.stack(vectors)
        mask = torch.bernoulli(torch.full_like(stacked, density), generator=generator)
        return scale * (stacked * mask / density).sum(0)

    return copies.added(change, copies.vectors)
