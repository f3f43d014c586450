"""The number of linearly independent gradients, as far as a Gram matrix that was summed in fp32 can
tell.

The matrix of cosines C has the rank of the Gram matrix, but does not depend on the gradients'
lengths. Inner products that are summed in fp32 are off by up to about 2e-6 of the product of the
two lengths (measured with a million numbers a gradient), so that an eigenvalue of C that should be
0 may come out as anything up to K times that, of either sign. `ROUNDING` is twice as much:
eigenvalues up to K * ROUNDING count as 0. Two gradients are told apart from about 0.2 degrees on.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 32 * torch.finfo(torch.float32).eps
"""Largest error of a cosine: 3.8e-6."""


def cosines_of(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines C (K, K) and the lengths n (K,) of gradients that are all longer than
    0."""
    norms = gram.diagonal().sqrt()
    return gram / norms[:, None] / norms, norms


def rank(cosines: Tensor) -> int:
    """Return the number of eigenvalues that are not 0."""
    return int((torch.linalg.eigvalsh(cosines) > len(cosines) * ROUNDING).sum())


def equal_cosines(cosines: Tensor) -> Tensor:
    """Return the v (K,) for which x = sum_t v_t u_t, with the unit gradients u_t, has the cosine 1
    / |x| to every gradient: C v = 1.

    Where gradients are linearly dependent, there are many such v, or none. Then this is the
    shortest v that comes closest in the sense of least squares.
    """
    return torch.linalg.pinv(cosines, atol=len(cosines) * ROUNDING, rtol=0.0, hermitian=True).sum(1)
