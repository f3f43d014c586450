"""Metrics of rankings: the mean over queries of a score of each query's order.

A prediction is the list of the scores of a query's candidates and a reference the list of their
relevances; or they are (query, score) and (query, relevance), one for each candidate. Candidates
with the same score keep the order in which they stand. A query without a relevant candidate counts
0, as in trec_eval. All scores are 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mtlcli.metrics import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray


@metric("mrr", "ranking")
def mrr(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return the mean reciprocal rank of the first candidate whose relevance is above 0 (Voorhees
    1999)."""
    return {"mrr": _mean(_reciprocal_rank, predictions, references)}


@metric("ndcg_10", "ranking")
def ndcg_10(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return the normalised discounted cumulative gain of the first ten candidates (Järvelin &
    Kekäläinen 2002), where the gain is the relevance itself."""
    return {"ndcg_10": _mean(_ndcg, predictions, references)}


@metric("map", "ranking")
def mean_average_precision(
    predictions: Sequence[Any], references: Sequence[Any]
) -> dict[str, float]:
    """Return the mean over queries of the average precision, where a relevance above 0 counts as
    relevant."""
    return {"map": _mean(_average_precision, predictions, references)}


def _mean(
    score: Callable[[NDArray], float],
    predictions: Sequence[Any],
    references: Sequence[Any],
) -> float:
    """Return the mean of the scores of the queries. `score`: takes the relevances of a query's
    candidates, from the best score to the worst."""
    import numpy as np

    if isinstance(references[0], tuple):
        queries: dict[Any, tuple[list[float], list[float]]] = {}
        for (query, value), (_, relevance) in zip(predictions, references, strict=True):
            values, relevances = queries.setdefault(query, ([], []))
            values.append(value)
            relevances.append(relevance)
        pairs = list(queries.values())
    else:
        pairs = list(zip(predictions, references, strict=True))
    found = []
    for values, relevances in pairs:
        order = np.argsort(-np.asarray(values, np.float64), kind="stable")
        found.append(score(np.asarray(relevances, np.float64)[order]))
    return float(np.mean(found))


def _reciprocal_rank(relevances: NDArray) -> float:
    import numpy as np

    relevant = np.flatnonzero(relevances > 0)
    return 1 / (1 + int(relevant[0])) if len(relevant) else 0.0


def _ndcg(relevances: NDArray) -> float:
    import numpy as np

    discounts = 1 / np.log2(np.arange(2, 12))
    best = np.sort(relevances)[::-1][:10]
    ideal = float((best * discounts[: len(best)]).sum())
    found = relevances[:10]
    return float((found * discounts[: len(found)]).sum()) / ideal if ideal else 0.0


def _average_precision(relevances: NDArray) -> float:
    import numpy as np

    relevant = np.flatnonzero(relevances > 0)
    if not len(relevant):
        return 0.0
    return float((np.arange(1, len(relevant) + 1) / (relevant + 1)).mean())
