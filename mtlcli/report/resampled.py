"""Metrics as functions of how often each validation row is drawn, for the bootstrap.

Most metrics are functions of a few sums over rows (the counts of a confusion matrix, moments,
scores of single rows). Such a sum over a resample is a product of the draws with a column of
numbers, so thousands of resamples take one matrix product. Every other metric is computed again by
`metrics/`, on each resample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.metrics import compute
from mtlcli.metrics.entities import entities

Floats = NDArray[np.float64]

FAST, SLOW = 2000, 100
"""The number of resamples of a metric that is a function of sums (or of ranks), and of one that is
computed again on each: with 100, the width of an interval is known to 7%."""
ROW_MEANS = ("squad", "rouge", "exact_match", "subset_accuracy")
"""Metrics that are means of the scores of single rows."""
UNIT_MEANS = ("mrr", "ndcg_10", "map", "group_exact_match")
"""Metrics that are means of the scores of units: of queries, or of groups of rows."""
AVERAGES = ("f1", "precision", "recall")


class Resampled(ABC):
    """A score of some predictions, as a function of how often each unit of rows is drawn."""

    replicates = FAST

    @abstractmethod
    def at(self, draws: NDArray[np.int64]) -> Floats:
        """Return the score of each resample: (B,). `draws`: how often each unit is in it,
        (B, units)."""


@dataclass
class Sums(Resampled):
    """A function of sums over rows."""

    columns: Floats
    """What is summed, by unit: (units, k)."""
    score: Callable[[Floats], Floats]
    """Returns the score from the sums: (B, k) to (B,)."""

    def at(self, draws: NDArray[np.int64]) -> Floats:
        return self.score(draws @ self.columns)


@dataclass
class Ranks(Resampled):
    """Spearman's correlation: Pearson's of the ranks in the resample, where equal numbers share
    their mean rank."""

    pairs: tuple[Floats, Floats]
    """Predictions and references, by row."""
    units: NDArray[np.int64]
    """The unit of each row."""

    def at(self, draws: NDArray[np.int64]) -> Floats:
        weights = draws[:, self.units].astype(np.float64)
        x, y = (_ranks(values, weights) for values in self.pairs)
        total = weights.sum(axis=1, keepdims=True)
        x -= (weights * x).sum(axis=1, keepdims=True) / total
        y -= (weights * y).sum(axis=1, keepdims=True) / total
        spread = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1)
        return _ratio((weights * x * y).sum(axis=1), np.sqrt(spread))


@dataclass
class Again(Resampled):
    """A metric that is computed again on each resample."""

    metric: str
    key: str
    """The key of the score in the metric's result."""
    predictions: Sequence[Any]
    references: Sequence[Any]
    options: dict[str, Any]
    units: NDArray[np.int64]
    """The unit of each row."""
    replicates: int = field(default=SLOW, init=False)

    def at(self, draws: NDArray[np.int64]) -> Floats:
        found = []
        for each in draws[:, self.units]:
            rows = np.repeat(np.arange(len(each)), each).tolist()
            drawn = [self.predictions[row] for row in rows], [self.references[row] for row in rows]
            found.append(compute(self.metric, *drawn, **self.options)[self.key])
        return np.array(found)


def resampled(
    metric: str,
    key: str,
    predictions: Sequence[Any],
    references: Sequence[Any],
    options: dict[str, Any],
    units: NDArray[np.int64],
) -> Resampled:
    """Return the score `key` of a metric in a form that can be resampled.

    `predictions`, `references`, `options`: the arguments of `metrics.compute`. `units`: the number
    of the unit that each row belongs to, from 0.
    """

    def sums(columns: Any, score: Callable[[Floats], Floats]) -> Sums:
        """Return the score of sums over rows. `columns`: (rows, k)."""
        table = np.asarray(columns, np.float64)
        whole = np.zeros((units.max() + 1, table.shape[1]))
        np.add.at(whole, units, table)
        return Sums(whole, score)

    def mean(values: Any) -> Sums:
        table = np.asarray(values, np.float64)
        return sums(np.stack([table, np.ones(len(table))], axis=1), _share)

    name, _, average = metric.partition("_")
    if metric == "accuracy":
        return mean(np.asarray(predictions) == np.asarray(references))
    if metric == "matthews" or (name in AVERAGES and average in ("", "macro", "micro")):
        several = np.ndim(references) == 2
        columns, classes = _counts(predictions, references, options.get("classes"))
        if metric == "matthews":
            return sums(columns, lambda found: _matthews(found, classes))
        kind = average or ("binary" if classes == 2 and not several else "macro")
        return sums(
            columns, lambda found: _averaged(name, kind, found, classes, only_present=not several)
        )
    if metric in ("pearson", "spearman", "mae", "rmse"):
        x, y = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
        if metric == "spearman":
            return Ranks((x, y), units)
        if metric == "pearson":
            # Moments around the means lose no digits to large numbers.
            x, y = x - x.mean(), y - y.mean()
            return sums(np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1), _pearson)
        if metric == "mae":
            return mean(np.abs(x - y))
        squares = np.stack([(x - y) ** 2, np.ones(len(x))], axis=1)
        return sums(squares, lambda found: np.sqrt(_share(found)))
    if metric in ROW_MEANS or (metric == "squad_v2" and key in ("f1", "exact_match")):
        return mean(
            [
                compute(metric, [found], [gold], **options)[key]
                for found, gold in zip(predictions, references, strict=True)
            ]
        )
    if metric in UNIT_MEANS:
        return Sums(_of_units(metric, key, predictions, references, options, units), _share)
    if metric in ("masked_accuracy", "perplexity"):
        part = "right" if metric == "masked_accuracy" else "log_probability"
        counts = [[sum(row[part]), len(row[part])] for row in predictions]
        if metric == "masked_accuracy":
            return sums(counts, _share)
        return sums(counts, lambda found: np.exp(np.minimum(700.0, -_share(found))))
    if metric == "tag_accuracy":
        pairs = zip(predictions, references, strict=True)
        return sums(
            [[sum(map(str.__eq__, found, gold)), len(gold)] for found, gold in pairs], _share
        )
    if metric == "entity_f1":
        return sums(
            [_entities(*pair) for pair in zip(predictions, references, strict=True)],
            {
                "entity_f1": lambda found: _ratio(2 * found[:, 0], found[:, 1] + found[:, 2]),
                "entity_precision": lambda found: _ratio(found[:, 0], found[:, 1]),
                "entity_recall": lambda found: _ratio(found[:, 0], found[:, 2]),
            }[key],
        )
    return Again(metric, key, predictions, references, options, units)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return the quotients, 0 where the denominator is 0."""
    return np.divide(above, below, out=np.zeros_like(above, np.float64), where=below > 0)


def _share(sums: Floats) -> Floats:
    return _ratio(sums[:, 0], sums[:, 1])


def _pearson(sums: Floats) -> Floats:
    n, x, y, xx, yy, xy = sums.T
    spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    return _ratio(n * xy - x * y, np.sqrt(spread))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean rank of each row among the rows that are drawn, each as often as its weight
    says: (B, rows)."""
    levels, place = np.unique(values, return_inverse=True)
    counts = np.zeros((len(weights), len(levels)))
    for level in range(len(levels)) if len(levels) < 64 else ():
        counts[:, level] = weights[:, place == level].sum(axis=1)
    if len(levels) >= 64:
        np.add.at(counts.T, place, weights.T)
    ranks: Floats = np.cumsum(counts, axis=1) - (counts - 1) / 2
    return ranks[:, place]


def _counts(
    predictions: Sequence[Any], references: Sequence[Any], classes: int | None
) -> tuple[Floats, int]:
    """Return, for each row and class, whether the class is found and right, found, and there:
    (rows, 3 * classes); and the number of classes."""
    found, gold = np.asarray(predictions), np.asarray(references)
    if gold.ndim == 1:
        classes = classes or max(2, 1 + int(max(found.max(), gold.max())))
        found, gold = (np.eye(classes)[each] for each in (found, gold))
    return np.concatenate([found * gold, found, gold], axis=1), gold.shape[1]


def _averaged(name: str, average: str, sums: Floats, classes: int, *, only_present: bool) -> Floats:
    """Return precision, recall or F1 from the sums of `_counts`, with scikit-learn's averages."""
    right, found, there = (sums[:, each * classes : (each + 1) * classes] for each in range(3))
    if average == "micro":
        right, found, there = (each.sum(axis=1, keepdims=True) for each in (right, found, there))
    above, below = {
        "f1": (2 * right, found + there),
        "precision": (right, found),
        "recall": (right, there),
    }[name]
    scores = _ratio(above, below)
    if average == "binary":
        return scores[:, 1]
    if average == "micro" or not only_present:
        return scores.mean(axis=1)
    present = found + there > 0
    return (scores * present).sum(axis=1) / present.sum(axis=1)


def _matthews(sums: Floats, classes: int) -> Floats:
    """Return the Matthews correlation from the sums of `_counts` (Gorodkin 2004)."""
    right, found, there = (sums[:, each * classes : (each + 1) * classes] for each in range(3))
    n = there.sum(axis=1)
    above = right.sum(axis=1) * n - (found * there).sum(axis=1)
    spread = (n**2 - (found**2).sum(axis=1)) * (n**2 - (there**2).sum(axis=1))
    return _ratio(above, np.sqrt(spread))


def _entities(found: Sequence[str], gold: Sequence[str]) -> list[int]:
    ours, theirs = set(entities(found)), set(entities(gold))
    return [len(ours & theirs), len(ours), len(theirs)]


def _of_units(
    metric: str,
    key: str,
    predictions: Sequence[Any],
    references: Sequence[Any],
    options: dict[str, Any],
    units: NDArray[np.int64],
) -> Floats:
    """Return the score of each unit by itself, and 1: (units, 2)."""
    rows: dict[int, list[int]] = {}
    for row, unit in enumerate(units.tolist()):
        rows.setdefault(unit, []).append(row)
    whole = np.ones((len(rows), 2))
    for unit, members in rows.items():
        own = {name: [values[row] for row in members] for name, values in options.items()}
        found = [predictions[row] for row in members]
        gold = [references[row] for row in members]
        whole[unit, 0] = compute(metric, found, gold, **own)[key]
    return whole
