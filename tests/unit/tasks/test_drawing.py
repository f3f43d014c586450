"""Draws of tokens: by their probabilities, and a function of the seed and the row alone."""

from __future__ import annotations

import numpy as np
import torch

from mtlcli.tasks.drawing import Drawing

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf")])


def drawn(rows: list[int], steps: int = 1, **options: float) -> list[list[int]]:
    """The tokens of some rows, (rows, steps), where the logits are the same at each step."""
    drawing = Drawing(rows, seed=7, **options)
    ids = torch.zeros((len(rows), 1), dtype=torch.long)
    found = [drawing(ids, LOGITS.expand(len(rows), -1)).argmax(1) for _ in range(steps)]
    return torch.stack(found, 1).tolist()


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    for temperature in (1.0, 0.5):
        tokens = np.array(drawn(list(range(8000)), temperature=temperature))[:, 0]
        found = np.bincount(tokens, minlength=5) / len(tokens)
        expected = (LOGITS / temperature).softmax(0).numpy()
        # Four standard errors of a share.
        assert (abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / 8000)).all()


def test_only_the_most_likely_tokens_are_drawn_from() -> None:
    # The first two have 0.87 of the probability.
    assert set(np.ravel(drawn(list(range(500)), top_p=0.7))) == {0, 1}
    assert set(np.ravel(drawn(list(range(500))))) == {0, 1, 2, 3}


def test_a_row_draws_the_same_in_any_batch() -> None:
    together = drawn([0, 1, 2, 3], steps=20)
    assert together[2] == drawn([2], steps=20)[0]
    assert together[1:] == drawn([1, 2, 3], steps=20)
    assert len(set(map(tuple, together))) == 4
