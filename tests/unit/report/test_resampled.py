"""A score of a resample is the metric of the rows that were drawn, for every metric that is not
computed again on each resample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtlcli.metrics import compute, entry, metric_names
from mtlcli.report.resampled import Again, resampled

ROWS = 60
DRAW = np.random.default_rng(5)
CLASSES = {
    2: (DRAW.integers(0, 2, ROWS).tolist(), DRAW.integers(0, 2, ROWS).tolist()),
    # Class 3 is in no label, class 4 in neither.
    5: (DRAW.integers(0, 4, ROWS).tolist(), DRAW.integers(0, 3, ROWS).tolist()),
}
SETS = (DRAW.integers(0, 2, (ROWS, 3)).tolist(), DRAW.integers(0, 2, (ROWS, 3)).tolist())
NUMBERS = (DRAW.normal(size=ROWS).round(1).tolist(), (DRAW.normal(size=ROWS) + 9).tolist())
LEVELS = (DRAW.integers(0, 4, ROWS).tolist(), DRAW.normal(size=ROWS).tolist())
TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
SEQUENCES = tuple([[TAGS[i] for i in DRAW.integers(0, 4, 5)] for _ in range(ROWS)] for _ in "ab")
TEXTS = tuple([" ".join(map(str, DRAW.integers(0, 3, 3))) for _ in range(ROWS)] for _ in "ab")
MASKED = [
    {
        "right": DRAW.integers(0, 2, number).tolist(),
        "log_probability": DRAW.normal(size=number).tolist(),
    }
    for number in DRAW.integers(1, 5, ROWS)
]
RANKED = (DRAW.normal(size=(ROWS, 4)).tolist(), DRAW.integers(0, 2, (ROWS, 4)).tolist())
CASES: list[tuple[str, Any, Any, dict[str, Any]]] = [
    *(
        (f"{name}{end}", *CLASSES[classes], {"classes": classes})
        for name in ("f1", "precision", "recall")
        for end in ("", "_macro", "_micro")
        for classes in (2, 5)
    ),
    *(
        (f"{name}{end}", *SETS, {"classes": 3})
        for name in ("f1", "precision", "recall")
        for end in ("_macro", "_micro")
    ),
    *((name, *CLASSES[classes], {}) for name in ("accuracy", "matthews") for classes in (2, 5)),
    *((name, *NUMBERS, {}) for name in ("pearson", "spearman", "mae", "rmse")),
    ("spearman", *LEVELS, {}),
    *((name, *SEQUENCES, {}) for name in ("tag_accuracy", "entity_f1")),
    *((name, MASKED, [""] * ROWS, {}) for name in ("masked_accuracy", "perplexity")),
    *((name, *RANKED, {}) for name in ("mrr", "ndcg_10", "map")),
    ("subset_accuracy", *SETS, {}),
    ("exact_match", *TEXTS, {}),
    ("rouge", *TEXTS, {}),
]


@pytest.mark.parametrize(
    ("metric", "predictions", "references", "options"), CASES, ids=lambda value: str(value)[:20]
)
def test_a_resample_has_the_score_of_its_rows(
    metric: str, predictions: Any, references: Any, options: dict[str, Any]
) -> None:
    draws = np.random.default_rng(0).multinomial(ROWS, [1 / ROWS] * ROWS, size=3)
    draws = np.concatenate([np.ones((1, ROWS), np.int64), draws])
    for key in entry(metric).keys:
        scores = resampled(metric, key, predictions, references, options, np.arange(ROWS))
        assert not isinstance(scores, Again)
        for found, each in zip(scores.at(draws), draws, strict=True):
            rows = np.repeat(np.arange(ROWS), each)
            drawn = [predictions[row] for row in rows], [references[row] for row in rows]
            assert found == pytest.approx(compute(metric, *drawn, **options)[key], abs=1e-9)


def test_questions_of_a_passage_are_drawn_together() -> None:
    gold = [{"id": str(row), "answers": {"text": ["c d"]}} for row in range(6)]
    found = [{"id": str(row), "prediction_text": "c d" if row < 4 else "d"} for row in range(6)]
    scores = resampled("squad", "f1", found, gold, {}, np.array([0, 0, 0, 0, 1, 1]))
    # The first passage alone, the second alone, and both as often.
    assert scores.at(np.array([[2, 0], [0, 2], [1, 1]])) == pytest.approx([1, 2 / 3, 8 / 9])


def test_groups_count_as_a_whole() -> None:
    groups = ["a", "a", "b", "b"]
    scores = resampled(
        "group_exact_match",
        "group_exact_match",
        [0, 1, 0, 1],
        [0, 1, 0, 0],
        {"groups": groups},
        np.array([0, 0, 1, 1]),
    )
    assert scores.at(np.array([[1, 1], [2, 0], [0, 2]])).tolist() == [0.5, 1.0, 0.0]


def test_other_metrics_are_computed_again() -> None:
    fast = {metric for metric, *_ in CASES} | {"squad", "squad_v2", "group_exact_match"}
    others = set(metric_names()) - fast
    assert others == {"bleu", "bleu_lc", "chrf", "relation_f1_micro", "relation_f1_macro"}
    scores = resampled("bleu", "bleu", *TEXTS, {}, np.arange(ROWS))
    draws = np.random.default_rng(0).multinomial(ROWS, [1 / ROWS] * ROWS, size=2)
    rows = np.repeat(np.arange(ROWS), draws[1])
    drawn = [TEXTS[0][row] for row in rows], [TEXTS[1][row] for row in rows]
    assert scores.at(draws)[1] == compute("bleu", *drawn)["bleu"]
