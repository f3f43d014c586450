"""A metric: the share of predictions that are at most 1 from the score."""

from __future__ import annotations

from collections.abc import Sequence

from mtlcli.metrics import metric


@metric("within_one", "median", "regression")
def within_one(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Return `within_one`, between 0 and 1."""
    near = [abs(one - other) <= 1 for one, other in zip(predictions, references, strict=True)]
    return {"within_one": sum(near) / len(near)}
