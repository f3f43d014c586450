"""Answers in windows of tokens: where they lie, and which spans have the best scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mtlcli.data.features import Features

MISSING = -100
"""Position of the answer in a window of an unlabelled row; the loss leaves such windows out."""
NOWHERE = 0
"""Position of the answer (the first token) in a window that does not hold it."""


def positions(
    features: Features, contexts: list[str], answers: Sequence[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the token positions, inside each window, of the first and the last token of the row's
    first answer: (N,) and (N,).

    The positions are NOWHERE for a window that does not hold the whole answer, MISSING for a row
    without a label.
    """
    row = features.columns["row"]
    found = np.full((2, len(features)), NOWHERE, dtype=np.int64)
    for number in range(len(features)):
        answer = answers[row[number]]
        if answer is None:
            found[:, number] = MISSING
        elif answer["text"]:
            text, start = answer["text"][0], answer["answer_start"][0]
            # No token covers white space at the ends of an answer.
            begin = start + len(text) - len(text.lstrip())
            end = start + len(text.rstrip())
            context_start, context_end = (
                int(features.columns[name][number]) for name in ("context_start", "context_end")
            )
            first = int(features.offsets[number])
            tokens = slice(first + context_start, first + context_end)
            char_start, char_end = (
                features.token_columns["char_start"][tokens],
                features.token_columns["char_end"][tokens],
            )
            overlap = np.flatnonzero((char_end > begin) & (char_start < end))
            if len(overlap) == 0:
                continue
            # The first and the last window also hold the characters at the ends of the context that
            # no token covers, for example control characters.
            is_first = number == 0 or row[number - 1] != row[number]
            is_last = number + 1 == len(features) or row[number + 1] != row[number]
            if (is_first or char_start[overlap[0]] <= begin) and (
                is_last or char_end[overlap[-1]] >= end
            ):
                found[:, number] = context_start + overlap[0], context_start + overlap[-1]
    return found[0], found[1]


def best_spans(
    start: NDArray, end: NDArray, max_length: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray]:
    """Return the first tokens, last tokens and scores of the `count` best spans with first <= last
    < first + max_length, in no order.

    The search is exact. run_squad.py pairs only the best starts with the best ends, which may leave
    no valid pair.
    """
    width = min(max_length, len(start))
    if width == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), start
    scores = start[:, None] + sliding_window_view(
        np.append(end, np.full(width - 1, -np.inf, end.dtype)), width
    )
    # The best spans start at those tokens whose own best span is among the best.
    firsts = _largest(scores.max(axis=1), count)
    best = _largest(scores[firsts].ravel(), count)
    first, length = firsts[best // width], best % width
    possible = np.isfinite(scores[first, length])
    first, length = first[possible], length[possible]
    return first, first + length, scores[first, length]


def _largest(values: NDArray, count: int) -> NDArray[np.int64]:
    """Return the places of the `count` largest values, in no order."""
    return (
        np.argpartition(values, len(values) - count)[-count:]
        if count < len(values)
        else np.arange(len(values))
    )
