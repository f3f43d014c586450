"""Metrics of class ids and of real numbers, computed by scikit-learn and scipy.

Degenerate inputs have defined scores. A correlation (Matthews included) is 0.0 when either side is
constant, because a constant carries no information about the other side. F1 is 0.0 when the class
that it is about is neither predicted nor present.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from mtlcli.metrics import metric


@metric("accuracy", "classification", "choice", "relation")
def accuracy(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """Return the share of class ids that are right, 0 to 1."""
    from sklearn import metrics

    return {"accuracy": float(metrics.accuracy_score(references, predictions))}


@metric("group_exact_match", "classification", "relation")
def group_exact_match(
    predictions: Sequence[int], references: Sequence[int], groups: Sequence[Hashable]
) -> dict[str, float]:
    """Return the share of groups of rows all of whose class ids are right, 0 to 1: with a group for
    each question the exact match of MultiRC (Khashabi et al. 2018). `groups`: the group of each
    row."""
    wrong = {
        group
        for found, gold, group in zip(predictions, references, groups, strict=True)
        if found != gold
    }
    return {"group_exact_match": 1 - len(wrong) / len(set(groups))}


@metric("subset_accuracy", "multilabel")
def subset_accuracy(
    predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Return the share of rows all of whose labels are right, 0 to 1. A prediction is a list of 0
    and 1, one for each label."""
    from sklearn import metrics

    return {"subset_accuracy": float(metrics.accuracy_score(references, predictions))}


@metric("f1_micro", "classification", "multilabel", "relation", average="micro")
@metric("f1_macro", "classification", "multilabel", "relation", average="macro")
@metric("f1", "classification")
def f1(
    predictions: Sequence[int],
    references: Sequence[int],
    classes: int | None = None,
    average: str | None = None,
) -> dict[str, float]:
    """Return the F1 of class ids, 0 to 1: of class 1 when there are two classes, else the
    unweighted mean over the classes that occur (macro F1). Where a row has several labels, a
    prediction is a list of 0 and 1, one for each label, and the mean is that over all labels.

    `classes`: the number of classes or labels; None means two when no id is above 1. `average`:
    `macro` or `micro`, for any number of classes.
    """
    from sklearn import metrics

    return _of_classes(metrics.f1_score, "f1", predictions, references, classes, average)


@metric("precision_micro", "classification", "multilabel", "relation", average="micro")
@metric("precision_macro", "classification", "multilabel", "relation", average="macro")
@metric("precision", "classification")
def precision(
    predictions: Sequence[int],
    references: Sequence[int],
    classes: int | None = None,
    average: str | None = None,
) -> dict[str, float]:
    """Return the precision of class ids, 0 to 1, with the arguments and means of `f1`. The
    precision of a class that is never predicted is 0."""
    from sklearn import metrics

    return _of_classes(
        metrics.precision_score, "precision", predictions, references, classes, average
    )


@metric("recall_micro", "classification", "multilabel", "relation", average="micro")
@metric("recall_macro", "classification", "multilabel", "relation", average="macro")
@metric("recall", "classification")
def recall(
    predictions: Sequence[int],
    references: Sequence[int],
    classes: int | None = None,
    average: str | None = None,
) -> dict[str, float]:
    """Return the recall of class ids, 0 to 1, with the arguments and means of `f1`. The recall of a
    class that does not occur is 0."""
    from sklearn import metrics

    return _of_classes(metrics.recall_score, "recall", predictions, references, classes, average)


def _of_classes(
    score: Callable[..., float],
    name: str,
    predictions: Sequence[int],
    references: Sequence[int],
    classes: int | None,
    average: str | None,
) -> dict[str, float]:
    if classes is None:
        classes = max(2, 1 + max(max(predictions), max(references)))
    key = name if average is None else f"{name}_{average}"
    return {
        key: float(
            score(
                references,
                predictions,
                average=average or ("binary" if classes == 2 else "macro"),
                zero_division=0,
            )
        )
    }


@metric("matthews", "classification")
def matthews(predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
    """Return the Matthews correlation of class ids, -1 to 1, for any number of classes (Gorodkin
    2004). It is 0.0 when either side is constant."""
    from sklearn import metrics

    if _constant(predictions) or _constant(references):
        return {"matthews": 0.0}
    return {"matthews": float(metrics.matthews_corrcoef(references, predictions))}


@metric("pearson", "regression")
def pearson(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Return the Pearson correlation of real numbers, -1 to 1. It is 0.0 when either side is
    constant."""
    from scipy import stats

    if _constant(predictions) or _constant(references):
        return {"pearson": 0.0}
    return {"pearson": float(stats.pearsonr(predictions, references).statistic)}


@metric("spearman", "regression")
def spearman(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Return the Spearman rank correlation of real numbers, -1 to 1; equal numbers share their mean
    rank. It is 0.0 when either side is constant."""
    from scipy import stats

    if _constant(predictions) or _constant(references):
        return {"spearman": 0.0}
    return {"spearman": float(stats.spearmanr(predictions, references).statistic)}


@metric("mae", "regression", rises=False)
def mae(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Return the mean absolute error of real numbers, in the unit of the scores: 0 is best."""
    from sklearn import metrics

    return {"mae": float(metrics.mean_absolute_error(references, predictions))}


@metric("rmse", "regression", rises=False)
def rmse(predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
    """Return the root of the mean squared error of real numbers, in the unit of the scores: 0 is
    best."""
    from sklearn import metrics

    return {"rmse": float(metrics.mean_squared_error(references, predictions) ** 0.5)}


def _constant(values: Sequence[float]) -> bool:
    import numpy as np

    return bool(np.ptp(np.asarray(values, dtype=np.float64)) == 0)
