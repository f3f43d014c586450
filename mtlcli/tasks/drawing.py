"""Texts whose tokens are drawn by their probability, so that a row's text is a function of the seed
and the row, and neither of the other rows of its batch nor of the number of ranks.

The largest of the logits with Gumbel noise is a draw from their softmax (Gumbel 1954; Maddison et
al. 2014, "A* Sampling"), so that a search for the most likely token draws. Each row has a generator
of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, TopPLogitsWarper


class Drawing(LogitsProcessor):
    """A step of the transformers library's `generate` that makes its greedy search draw."""

    def __init__(
        self, rows: Sequence[int], *, seed: int, temperature: float = 1.0, top_p: float = 1.0
    ) -> None:
        """`rows`: the number of each text's row. `temperature`: the divisor of the logits. `top_p`:
        the probability of the most likely tokens that are drawn from (Holtzman et al. 2020)."""
        self._generators = [np.random.default_rng((seed, row)) for row in rows]
        self._temperature = temperature
        self._nucleus = TopPLogitsWarper(top_p) if top_p < 1 else None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores of the tokens that may follow, (batch, vocabulary), with noise: the
        largest is the token that is drawn."""
        scores = scores.float() / self._temperature
        if self._nucleus is not None:
            scores = self._nucleus(input_ids, scores)
        waits = [
            each.standard_exponential(scores.shape[1], np.float32) for each in self._generators
        ]
        noise: Tensor = -torch.from_numpy(np.stack(waits)).log()
        return scores + noise.to(scores.device)
