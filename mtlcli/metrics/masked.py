"""Metrics of masked language modelling. A prediction has `right` and `log_probability` for each
hidden token of a row; the tokens of all rows count the same. References are not read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

from mtlcli.metrics import metric

Row = Mapping[str, Sequence[float]]
LARGEST = 700.0
"""The largest mean loss whose exponential is a number."""


@metric("masked_accuracy", "mlm")
def masked_accuracy(predictions: Sequence[Row], references: Sequence[str]) -> dict[str, float]:
    """Return the share of the hidden tokens for which the best guess is right, 0 to 1. Raises
    ValueError when no token is hidden."""
    return {"masked_accuracy": _mean(predictions, "right")}


@metric("perplexity", "mlm", rises=False)
def perplexity(predictions: Sequence[Row], references: Sequence[str]) -> dict[str, float]:
    """Return the exponential of the mean cross entropy of the hidden tokens (natural logarithm): 1
    or more, less is better. Raises ValueError when no token is hidden."""
    return {"perplexity": math.exp(min(LARGEST, -_mean(predictions, "log_probability")))}


def _mean(predictions: Sequence[Row], key: str) -> float:
    values = list(chain.from_iterable(row[key] for row in predictions))
    if not values:
        raise ValueError("no token is hidden")
    return math.fsum(values) / len(values)
