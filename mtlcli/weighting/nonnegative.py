"""Non-negative least squares on a Gram matrix: the exact solver behind the minimum-norm point and
the dual cone.

scipy.optimize.nnls is an active-set method (Lawson & Hanson 1974): it ends after finitely many
steps at the solution itself, needs no tolerance, and for the K of this package takes microseconds.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torchjd.linalg import DualConeProjector

from mtlcli.weighting.gradients.base import SolverFailed


def unit_factor(gram: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return (A, n): columns of length 1 and the gradients' norms, with gram = diag(n) A' A
    diag(n). Both are zero for a zero gradient.

    Columns have length 1, since a factor of the Gram matrix itself would lose gradients much
    shorter than the longest.
    """
    norms = gram.diagonal().clamp(min=0).sqrt()
    divisor = torch.where(norms > 0, norms, 1.0)
    values, vectors = torch.linalg.eigh(gram / divisor[:, None] / divisor)
    return (values.clamp(min=0).sqrt()[:, None] * vectors.T).numpy(), norms.numpy()


def nonnegative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the x >= 0 that minimises |matrix x - target|. Raises SolverFailed."""
    try:
        return np.asarray(nnls(matrix, target)[0])
    except RuntimeError as error:  # The limit of iterations was reached.
        raise SolverFailed(f"scipy.optimize.nnls: {error}") from error


class ExactProjector(DualConeProjector):
    """Projection onto the dual cone by non-negative least squares."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        """Return the weights v of the projection of each row u of U."""
        columns, norms = unit_factor(G)
        divisor = np.where(norms > 0, norms, 1.0)
        # In the variables n_t s_t, the columns of A have length 1.
        added = [nonnegative(columns, -columns @ (norms * u)) / divisor for u in U.numpy()]
        return U + torch.from_numpy(np.stack(added))
