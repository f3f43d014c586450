"""The mean of the weights.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time" (the uniform soup), there of models of one task:

    theta = 1/n sum_i theta_i
"""

from __future__ import annotations

from mtlcli.merging.base import Copies, State


def merge(copies: Copies) -> State:
    """Return the mean of the weights of all runs."""
    return copies.mean()
