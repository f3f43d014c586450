"""TIES: trim, elect a sign, and merge what agrees with it.

Yadav et al. 2023, "TIES-Merging: Resolving Interference When Merging Models". For task vectors
tau_i:

    trim    keep the `density` of each tau_i that is largest in absolute value, 0 for the rest
    elect   the sign of sum_i tau_i for each number
    merge   the mean of the tau_i that have this sign (and are not 0)
    theta = theta_0 + scale * merged

As in the authors' code, the largest numbers are those of the whole vector, not of each tensor
(which is what peft does); that code keeps one number more. Where the sum is exactly 0, the elected
sign is positive, as in peft; the authors take the sign that most numbers of the whole vector have.
`scale=1` and `density=0.2` are what they take where nothing can be chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtlcli.merging.base import Copies, State


def merge(copies: Copies, *, scale: float, density: float) -> State:
    """Return the initial weights and the scaled merge of the trimmed task vectors."""
    vectors = copies.vectors
    whole = [torch.cat([each.flatten() for each in vector.values()]) for vector in vectors]
    limits = [least_kept(each, density) for each in whole]

    def change(name: str, each: list[Tensor]) -> Tensor:
        kept = [
            vector * (vector.abs() >= limit) for vector, limit in zip(each, limits, strict=True)
        ]
        return scale * agreed(torch.stack(kept))

    return copies.added(change, vectors)


def least_kept(vector: Tensor, density: float) -> Tensor:
    """Return the absolute value from which on a number is among the largest share `density` of a
    flat vector; scalar."""
    kept = int(density * len(vector))
    if kept == 0:
        return vector.new_full((), torch.inf)
    return vector.abs().kthvalue(len(vector) - kept + 1).values


def agreed(trimmed: Tensor) -> Tensor:
    """Return the mean over runs of the numbers that have the elected sign, 0 where there is none:
    (runs, ...) -> (...)."""
    elected = torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    agrees = trimmed.sign() == elected
    return (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)
