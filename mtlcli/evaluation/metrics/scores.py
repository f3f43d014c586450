"""Metrics over class ids and over real numbers, on scikit-learn and scipy.

Degenerate inputs have defined scores: a correlation (Matthews included) is 0.0 when either side is constant, because a
constant says nothing about the other side; F1 is 0.0 when a class is neither predicted nor present where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn import metrics


def accuracy(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """Share of class ids that are right, 0 to 1."""
    return {"accuracy": float(metrics.accuracy_score(references, predictions))}


def f1(predictions: Sequence[int], references: Sequence[int], classes: int | None = None) -> dict[str, float]:
    """F1 of class ids, 0 to 1: of class 1 when there are two classes, else the unweighted mean over the classes that occur (macro F1).

    `classes`: how many classes there are; None: two when no id is above 1.
    """
    if classes is None:
        classes = max(2, 1 + max(max(predictions), max(references)))
    average = "binary" if classes == 2 else "macro"
    return {"f1": float(metrics.f1_score(references, predictions, average=average, zero_division=0))}


def matthews(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """Matthews correlation of class ids, -1 to 1, for any number of classes (Gorodkin 2004). 0.0 when either side is constant."""
    if _constant(predictions) or _constant(references):
        return {"matthews": 0.0}
    return {"matthews": float(metrics.matthews_corrcoef(references, predictions))}


def pearson(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Pearson correlation of real numbers, -1 to 1. 0.0 when either side is constant."""
    if _constant(predictions) or _constant(references):
        return {"pearson": 0.0}
    return {"pearson": float(stats.pearsonr(predictions, references).statistic)}


def spearman(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Spearman rank correlation of real numbers, -1 to 1; equal numbers share their mean rank. 0.0 when either side is constant."""
    if _constant(predictions) or _constant(references):
        return {"spearman": 0.0}
    return {"spearman": float(stats.spearmanr(predictions, references).statistic)}


def _constant(values: Sequence[float]) -> bool:
    return bool(np.ptp(np.asarray(values, dtype=np.float64)) == 0)
