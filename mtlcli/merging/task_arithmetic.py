"""Task arithmetic: the sum of the task vectors.

Ilharco et al. 2023, "Editing Models with Task Arithmetic":

    theta = theta_0 + scale * sum_i (theta_i - theta_0)

The default scale, 0.4, is the one that Yadav et al. 2023 (TIES) take where none can be chosen.
"""

from __future__ import annotations

import torch

from mtlcli.merging.base import Copies, State


def merge(copies: Copies, *, scale: float) -> State:
    """Return the initial weights and the scaled sum of the task vectors."""
    return copies.added(lambda name, vectors: scale * torch.stack(vectors).sum(0), copies.vectors)
