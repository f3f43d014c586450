"""The metrics of both SQuADs: worked out by hand, and against a second implementation of the
official scripts."""

from __future__ import annotations

import random
import re
import string
from typing import Any

import pytest

from mtlcli.metrics import compute
from mtlcli.metrics.answers import normalize


def prediction(key: str, text: str, probability: float = 0.0) -> dict[str, Any]:
    return {"id": key, "prediction_text": text, "no_answer_probability": probability}


def question(key: str, *answers: str) -> dict[str, Any]:
    return {"id": key, "answers": {"text": list(answers), "answer_start": [0] * len(answers)}}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat,\n sat!", "cat sat"),
        ("a an the", ""),
        ("theatre another A's", "theatre another as"),
        ("well-known", "wellknown"),
        ("the-cat", "thecat"),
        ("24–10", "24–10"),  # only ASCII punctuation goes
        ("$5.50", "550"),
        ("“The” café", "“ ” café"),
        ("  ", ""),
    ],
)
def test_normalisation(text: str, normal: str) -> None:
    assert normalize(text) == normal


def test_squad_by_hand() -> None:
    golds = [
        question("a", "the Broncos", "Denver Broncos"),
        question("b", "in 1998"),
        question("c", "gold gold medal"),
        question("d", "x"),
    ]
    # a: equal to the second answer. b: half of it, precision 1, recall 1/2. c: two of three tokens
    # on both sides. d: nothing.
    given = [
        prediction("a", "Denver Broncos."),
        prediction("b", "1998"),
        prediction("c", "gold gold gold"),
        prediction("d", "the y"),
    ]
    assert compute("squad", given, golds) == {
        "f1": pytest.approx((1 + 2 / 3 + 2 / 3 + 0) / 4),
        "exact_match": 0.25,
    }
    assert compute("squad", given[::-1], golds) == compute("squad", given, golds), "matched by id"


def test_squad_does_not_count_two_empty_texts_as_shared_tokens() -> None:
    assert compute("squad", [prediction("a", "the")], [question("a", "a")]) == {
        "f1": 0.0,
        "exact_match": 1.0,
    }
    assert compute("squad_v2", [prediction("a", "the")], [question("a", "a")])["f1"] == 1.0


def test_squad_v2_by_hand() -> None:
    golds = [
        question("has1", "red cat"),
        question("has2", "dog"),
        question("none1"),
        question("none2"),
    ]
    given = [
        prediction("has1", "cat", 0.2),
        prediction("has2", "dog", 0.6),
        prediction("none1", "bird", 0.9),
        prediction("none2", "", 0.1),
    ]
    # Without threshold: F1 2/3 and 1; no answer is right once. Exact: 0 and 1, and once.
    assert compute("squad_v2", given, golds) == pytest.approx(
        {
            "f1": (2 / 3 + 1 + 0 + 1) / 4,
            "exact_match": (0 + 1 + 0 + 1) / 4,
            "HasAns_f1": 5 / 6,
            "HasAns_exact": 1 / 2,
            "NoAns_f1": 1 / 2,
            "NoAns_exact": 1 / 2,
            # From two questions without answer: + 0 (none2 is empty), + 2/3 (has1), + 1 (has2), - 1
            # (none1): best after has2.
            "best_f1": (2 + 2 / 3 + 1) / 4,
            "best_f1_thresh": 0.6,
            "best_exact": 3 / 4,
            "best_exact_thresh": 0.6,
        }
    )
    # At 0.5, has2 and none1 have no answer.
    at_half = compute("squad_v2", given, golds, no_answer_threshold=0.5)
    assert (at_half["f1"], at_half["exact_match"]) == pytest.approx(
        ((2 / 3 + 0 + 1 + 1) / 4, 2 / 4)
    )
    assert (at_half["best_f1"], at_half["best_f1_thresh"]) == pytest.approx(
        ((2 + 2 / 3 + 1) / 4, 0.6)
    )


def test_a_probability_at_the_threshold_is_an_answer_and_saying_nothing_can_be_best() -> None:
    golds = [question("a", "cat"), question("b")]
    assert (
        compute(
            "squad_v2",
            [prediction("a", "cat", 0.5), prediction("b", "x", 0.5)],
            golds,
            no_answer_threshold=0.5,
        )["HasAns_f1"]
        == 1.0
    )
    worst = compute("squad_v2", [prediction("a", "dog", 0.5), prediction("b", "x", 0.4)], golds)
    assert (worst["best_f1"], worst["best_f1_thresh"], worst["f1"]) == (0.5, 0.0, 0.0)


def test_parts_without_questions_are_left_out() -> None:
    only = compute("squad_v2", [prediction("a", "cat")], [question("a", "cat")])
    assert "HasAns_f1" in only and "NoAns_f1" not in only
    only = compute("squad_v2", [prediction("a", "")], [question("a")])
    assert "HasAns_f1" not in only and only["NoAns_exact"] == 1.0


@pytest.mark.parametrize("name", ["squad", "squad_v2"])
def test_every_question_needs_its_own_prediction(name: str) -> None:
    golds = [question("a", "cat"), question("b", "dog")]
    for given in (
        [prediction("a", "x"), prediction("c", "x")],
        [prediction("a", "x"), prediction("a", "y")],
    ):
        with pytest.raises(ValueError, match="one prediction for every question"):
            compute(name, given, golds)
    with pytest.raises(ValueError, match="unique ids"):
        compute(name, [prediction("a", "x"), prediction("a", "x")], [golds[0], golds[0]])


def test_squad_refuses_questions_without_answer() -> None:
    with pytest.raises(ValueError, match="squad_v2"):
        compute("squad", [prediction("a", "")], [question("a")])


# A second implementation, from the description in the official scripts: tokens one by one,
# thresholds tried one by one.


def second_tokens(text: str) -> list[str]:
    letters = [letter for letter in text.lower() if letter not in string.punctuation]
    return [
        token
        for token in re.split(r"\s+", re.sub(r"\b(?:a|an|the)\b", " ", "".join(letters)))
        if token
    ]


def second_f1(text: str, gold: str, empty_is_equal: bool) -> float:
    left, right = second_tokens(text), second_tokens(gold)
    if empty_is_equal and not (left and right):
        return float(left == right)
    shared = 0
    rest = list(right)
    for token in left:
        if token in rest:
            rest.remove(token)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(left), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def second_scores(text: str, golds: list[str], version_2: bool) -> dict[str, float]:
    if version_2:
        golds = [gold for gold in golds if second_tokens(gold)] or [""]
    return {
        "f1": max(second_f1(text, gold, version_2) for gold in golds),
        "exact": max(float(second_tokens(text) == second_tokens(gold)) for gold in golds),
    }


def at_threshold(each: list[dict[str, Any]], key: str, threshold: float) -> list[float]:
    return [
        (0.0 if one["golds"] else 1.0) if one["probability"] > threshold else one[key]
        for one in each
    ]


@pytest.mark.parametrize("seed", range(20))
def test_against_a_second_implementation(seed: int) -> None:
    dice = random.Random(seed)
    words = [
        "the",
        "a",
        "Cat",
        "cat,",
        "dog",
        "-",
        "red",
        "Red!",
        "an",
        "24–10",
        "x",
        "É",
        "...",
        "state-of-the-art",
    ]

    def text(most: int) -> str:
        return " ".join(dice.choice(words) for _ in range(dice.randint(0, most)))

    golds = [[text(4) or "x" for _ in range(dice.randint(0, 3))] for _ in range(40)]
    # Different probabilities, as the official script takes only a part of those that are equal, and
    # none is 0, which is also the threshold that it gives for "never an answer".
    probabilities = dice.sample([number / 100 for number in range(1, 100)], 40)
    given = [
        prediction(str(number), text(5), probability)
        for number, probability in enumerate(probabilities)
    ]
    references = [question(str(number), *gold) for number, gold in enumerate(golds)]

    answered = [number for number in range(40) if golds[number]]
    each = [
        second_scores(given[number]["prediction_text"], golds[number], version_2=False)
        for number in answered
    ]
    found = compute(
        "squad", [given[number] for number in answered], [references[number] for number in answered]
    )
    assert found["f1"] == pytest.approx(sum(one["f1"] for one in each) / len(each))
    assert found["exact_match"] == pytest.approx(sum(one["exact"] for one in each) / len(each))

    both: list[dict[str, Any]] = [
        {
            **second_scores(one["prediction_text"], gold, version_2=True),
            "golds": gold,
            "probability": one["no_answer_probability"],
        }
        for one, gold in zip(given, golds, strict=True)
    ]
    for threshold in (1.0, 0.5, 0.2):
        found = compute("squad_v2", given, references, no_answer_threshold=threshold)
        for key, name in (("f1", "f1"), ("exact", "exact_match")):
            scores = at_threshold(both, key, threshold)
            assert found[name] == pytest.approx(sum(scores) / 40)
            parts = {
                "HasAns": answered,
                "NoAns": [number for number in range(40) if not golds[number]],
            }
            for part, numbers in parts.items():
                assert found[f"{part}_{key}"] == pytest.approx(
                    sum(scores[number] for number in numbers) / len(numbers)
                )
    # In the search, an unanswerable question is right exactly when it is given no answer, by
    # threshold or by an empty text.
    for one, own in zip(both, given, strict=True):
        if not one["golds"]:
            one["f1"] = one["exact"] = float(not own["prediction_text"])
    for key in ("f1", "exact"):
        best = max(
            sum(at_threshold(both, key, threshold)) / 40 for threshold in [-1.0, *probabilities]
        )
        assert found[f"best_{key}"] == pytest.approx(best)
        reached = sum(at_threshold(both, key, found[f"best_{key}_thresh"])) / 40
        assert reached == pytest.approx(best)
