"""Exact match and token F1 of answers as in the official scripts of SQuAD 1.1 and 2.0, but as
fractions from 0 to 1. By hand, since the package `evaluate` downloads its SQuAD metrics.

SQuAD 1.1: evaluate-v1.1.py (Rajpurkar et al. 2016). SQuAD 2.0: evaluate-v2.0.py (Rajpurkar, Jia &
Liang 2018).

The inputs have the form of the hub's metrics: a prediction is {"id", "prediction_text"} (2.0: also
"no_answer_probability"), a reference is {"id", "answers": {"text": [...], "answer_start": [...]}}.
Predictions and references are matched by id.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mtlcli.metrics import metric

ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, articles and extra white space."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


@metric("squad", "span", keys=("f1", "exact_match"))
def squad(
    predictions: Sequence[dict[str, Any]], references: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Return the mean exact match and token F1, each against the best of the gold answers. Raises
    ValueError for a question without answer."""
    texts = _by_id(predictions, references, "prediction_text")
    exact = total = 0.0
    for reference in references:
        gold = [normalize(answer) for answer in reference["answers"]["text"]]
        if not gold:
            raise ValueError(
                f"question '{reference['id']}' has no answer: squad_v2 is the metric for such "
                "questions"
            )
        text = normalize(texts[reference["id"]])
        exact += any(text == answer for answer in gold)
        total += max(_overlap(text, answer) for answer in gold)
    return {"f1": total / len(references), "exact_match": exact / len(references)}


@metric(
    "squad_v2",
    "span",
    keys=("f1", "exact_match", "best_f1", "best_f1_thresh", "best_exact", "best_exact_thresh"),
    optional_keys=("HasAns_f1", "HasAns_exact", "NoAns_f1", "NoAns_exact"),
)
def squad_v2(
    predictions: Sequence[dict[str, Any]],
    references: Sequence[dict[str, Any]],
    no_answer_threshold: float = 1.0,
) -> dict[str, float]:
    """Return the scores for questions that may have no answer.

    An empty `prediction_text`, or a `no_answer_probability` above `no_answer_threshold`, predicts
    that there is no answer. The keys of the result:

    f1, exact_match: the mean over all questions
    HasAns_*, NoAns_*: the mean over the questions with or without answer; left out if there are
        none
    best_*, best_*_thresh: the best score that any threshold could give, and that threshold
    """
    texts = _by_id(predictions, references, "prediction_text")
    probabilities = _by_id(predictions, references, "no_answer_probability")
    exact: dict[str, float] = {}
    f1: dict[str, float] = {}
    answerable: dict[str, bool] = {}
    for reference in references:
        key = reference["id"]
        answerable[key] = bool(reference["answers"]["text"])
        gold = [answer for answer in map(normalize, reference["answers"]["text"]) if answer] or [""]
        text = normalize(texts[key])
        exact[key] = float(any(text == answer for answer in gold))
        # If one side has no tokens, F1 is 1 when both are empty and else 0. The overlap alone would
        # be 0 for two empty texts.
        f1[key] = max(
            _overlap(text, answer) if text and answer else float(text == answer) for answer in gold
        )

    def at_threshold(scores: dict[str, float]) -> dict[str, float]:
        return {
            key: float(not answerable[key]) if probabilities[key] > no_answer_threshold else score
            for key, score in scores.items()
        }

    kept_f1, kept_exact = at_threshold(f1), at_threshold(exact)
    result = {"f1": _mean(kept_f1, answerable), "exact_match": _mean(kept_exact, answerable)}
    result["best_f1"], result["best_f1_thresh"] = _best(f1, texts, probabilities, answerable)
    result["best_exact"], result["best_exact_thresh"] = _best(
        exact, texts, probabilities, answerable
    )
    for part, keys in (
        ("HasAns", [k for k in answerable if answerable[k]]),
        ("NoAns", [k for k in answerable if not answerable[k]]),
    ):
        if keys:
            result[f"{part}_f1"] = _mean(kept_f1, keys)
            result[f"{part}_exact"] = _mean(kept_exact, keys)
    return result


def _by_id(
    predictions: Sequence[dict[str, Any]], references: Sequence[dict[str, Any]], key: str
) -> dict[str, Any]:
    """Return id -> prediction[key]. Raises ValueError unless predictions and references have the
    same ids and the references have unique ids."""
    found = {prediction["id"]: prediction[key] for prediction in predictions}
    ids = {reference["id"] for reference in references}
    if found.keys() != ids or len(ids) != len(references):
        raise ValueError("squad metrics need one prediction for every question, with unique ids")
    return found


def _overlap(prediction: str, gold: str) -> float:
    """Return the F1 of the bags of tokens of two normalised texts; 0 when they share no token."""
    prediction_tokens, gold_tokens = prediction.split(), gold.split()
    same = sum((Counter(prediction_tokens) & Counter(gold_tokens)).values())
    return 2 * same / (len(prediction_tokens) + len(gold_tokens)) if same else 0.0


def _mean(scores: dict[str, float], keys: Any) -> float:
    return sum(scores[key] for key in keys) / len(keys)


def _best(
    scores: dict[str, float],
    texts: dict[str, str],
    probabilities: dict[str, float],
    answerable: dict[str, bool],
) -> tuple[float, float]:
    """Return the best mean score over all thresholds, and the threshold that gives it.

    The search starts with no answer to every question and adds answers by rising probability. As in
    the official script, questions of equal probability are added one after another, so that the
    best score may lie within a tie.
    """
    current = best = float(sum(not has for has in answerable.values()))
    threshold = 0.0
    for key in sorted(probabilities, key=lambda key: probabilities[key]):
        if answerable[key]:
            current += scores[key]
        elif texts[key]:
            current -= 1
        if current > best:
            best, threshold = current, probabilities[key]
    return best / len(scores), threshold
