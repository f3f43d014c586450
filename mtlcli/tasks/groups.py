"""Features that belong together: the options of a question, the candidates of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.features import Features

if TYPE_CHECKING:
    from torch import Tensor

    from mtlcli.data.batches import Batch

LEAST = -1e30
"""The score of a place without a feature: too low to have a share in a softmax."""


def grouped(features: Features, sizes: NDArray[np.int64]) -> Features:
    """Let each `sizes` consecutive features be one example. Returns `features`."""
    features.groups = np.concatenate([[0], np.cumsum(sizes)])
    return features


def of_examples(values: NDArray, features: Features) -> list[NDArray]:
    """Return the values of the features (N, ...) of each example."""
    assert features.groups is not None
    return np.split(values, features.groups[1:-1]) if len(features.groups) > 1 else []


def by_example(values: Tensor, batch: Batch, fill: float) -> Tensor:
    """Return one value for each feature of a batch (B,) as a row for each example, `fill` where an
    example has fewer features than the widest: (B, widest). Rows without an example are last."""
    places = batch.columns["place"]
    rows = (places == 0).cumsum(0) - 1
    empty = values.new_full((len(values), batch.widest or 1), fill)
    return empty.index_put((rows, places), values)
