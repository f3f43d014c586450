"""Ranking: lists and pairs, row checks, the two losses, and metrics against scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from mtlcli.config.task import Source
from mtlcli.data.batches import InputFormat, collate
from mtlcli.data.encoder import TextEncoder
from mtlcli.data.features import Split
from mtlcli.data.table import Table
from mtlcli.data.vocabulary import build_tokenizer
from mtlcli.evaluation.evaluate import score
from mtlcli.metrics import compute
from mtlcli.tasks.ranking import RankingColumns, RankingTask
from mtlcli.tasks.ranking.task import Ranking

LISTS = {
    "query": ["one", "two", "three"],
    "candidates": [["a", "b", "c"], ["x", "y"], ["p", "q"]],
    "label": [[0, 2, 1], [1, 0], None],
}
PAIRS = {
    "id": [7, 9, 7, 9, 7],
    "query": ["one", "two", "one", "two", "one"],
    "candidates": ["a", "x", "b", "y", "c"],
    "label": [0, 1.0, 2, 0, 1],
}


def task(query_id: str | None = None, **options: Any) -> Ranking:
    columns = RankingColumns(query="query", candidates="candidates", query_id=query_id)
    return Ranking(
        "toy", RankingTask(source=Source(path="x"), columns=columns, max_length=16, **options)
    )


def table(columns: dict[str, Any]) -> Table:
    return Table(pa.table(columns), "toy.jsonl", "train")


def encoder() -> TextEncoder:
    texts = ["one two three a b c x y p q"] * 3
    return TextEncoder(build_tokenizer(texts, 80), uses_segments=True)


@pytest.mark.parametrize("loss", ["listnet", "ranknet"])
@pytest.mark.parametrize("pairs", [False, True])
def test_the_losses_are_those_of_the_papers(loss: str, pairs: bool) -> None:
    made = task("id" if pairs else None, loss=loss, unlabelled="skip")
    features = made.encode(table(PAIRS if pairs else LISTS), encoder())
    assert features.groups is not None
    assert features.groups.tolist() == ([0, 3, 5] if pairs else [0, 3, 5, 7])
    assert made.items(features, np.arange(len(features))) == 2
    logits = torch.randn(len(features), 1, generator=torch.Generator().manual_seed(3))
    batch = collate(
        features, np.arange(len(features)), input_format=InputFormat(0, False), denominator=1.0
    )
    wanted = 0.0
    for first, relevances in ((0, [0, 2, 1]), (3, [1, 0])):
        scores = logits[first : first + len(relevances), 0].double().tolist()
        if loss == "listnet":
            of_labels = [math.exp(each) / sum(map(math.exp, relevances)) for each in relevances]
            of_scores = [math.exp(each) / sum(map(math.exp, scores)) for each in scores]
            wanted -= sum(p * math.log(q) for p, q in zip(of_labels, of_scores, strict=True))
        else:
            terms = [
                math.log1p(math.exp(scores[j] - scores[i]))
                for i, better in enumerate(relevances)
                for j, worse in enumerate(relevances)
                if better > worse
            ]
            wanted += sum(terms) / len(terms)
    logits.requires_grad_()
    found = made.loss({"logits": logits}, batch)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    found.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    # Candidates without relevance are in no loss.
    assert pairs or (logits.grad[5:] == 0).all()


def test_predictions_and_references_of_lists_and_pairs_score_the_same() -> None:
    whole = {name: values[:2] for name, values in LISTS.items()}
    logits = np.array([[0.3], [0.1], [0.2], [0.5], [-1.0]])
    scores = []
    for made, rows in ((task(), table(whole)), (task("id"), table(PAIRS))):
        assert made.check(rows, labelled=True) == []
        features = made.encode(rows, encoder())
        scores.append(score(made, {"logits": logits}, Split(rows, features)))
    assert scores[0].metrics == scores[1].metrics and scores[0].majority == scores[1].majority
    assert scores[0].predictions[0] == {"scores": [0.3, 0.1, 0.2], "order": [0, 2, 1]}
    assert scores[1].predictions[2] == {"query": 7, "score": 0.1}
    # The first query has its first relevant candidate at rank 2, the second at 1.
    assert scores[0].metrics["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert scores[0].majority == pytest.approx((1 / 2 + 1) / 2)


def test_metrics_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    references = [random.integers(0, 3, size).astype(float).tolist() for size in (2, 5, 12, 30)]
    references[1][0] = references[0][0] = 1.0
    references.append([0.0, 0.0])
    predictions = [random.normal(size=len(each)).tolist() for each in references]
    pairs = list(zip(references, predictions, strict=True))
    ndcg = [ndcg_score([truth], [found], k=10) for truth, found in pairs]
    assert compute("ndcg_10", predictions, references)["ndcg_10"] == pytest.approx(np.mean(ndcg))
    precision = [
        average_precision_score(np.array(truth) > 0, found) if any(truth) else 0.0
        for truth, found in pairs
    ]
    assert compute("map", predictions, references)["map"] == pytest.approx(np.mean(precision))


@pytest.mark.parametrize(
    ("columns", "query_id", "what", "fix"),
    [
        ({"label": [[0, 1, 1], [1], [1, 0]]}, None, "row 2: there are 1 relevance for", "exactly"),
        (
            {"label": [[0, 1, 1], [1, -1], [1, 0]]},
            None,
            "row 2: relevance [1, -1] is no",
            "write 0",
        ),
        ({}, None, "row 3: column 'label' has no relevance", "unlabelled=skip"),
        ({"label": [1, 0, 1]}, None, "row 1: column 'label' holds whole numbers", "columns.label"),
        ({"candidates": [["a"] * 3, [], ["p", "q"]]}, None, "row 2: column 'candidates'", "add"),
        ({"candidates": ["a", "b", "c"]}, None, "row 1: column 'candidates' holds", "query_id"),
        (
            {**PAIRS, "id": [7, None, 7, 9, 7]},
            "id",
            "row 2: column 'id' is empty",
            "name the query",
        ),
        ({**PAIRS, "query": ["one", "", "c", "d", "e"]}, "id", "row 2: column 'query'", "fill"),
    ],
)
def test_bad_rows_are_refused(
    columns: dict[str, Any], query_id: str | None, what: str, fix: str
) -> None:
    rows = table(columns if query_id else LISTS | columns)
    found = [str(problem) for problem in task(query_id).check(rows, labelled=True)]
    assert any(what in each and fix in each for each in found), found
