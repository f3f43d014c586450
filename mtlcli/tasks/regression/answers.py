"""Scores as answers of a language model (`form=text`).

As in T5 (Raffel et al. 2020, section 2.4), which rounds the scores of STS-B, 0 to 5, to multiples
of 0.2: the range of a task is divided into 25 steps, and a number is written with as many decimals
as these need.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.table import Table
from mtlcli.tasks.answers import NO_CHOICE, Choices, softmax

if TYPE_CHECKING:
    from mtlcli.tasks.regression.task import Regression

STEPS = 25
"""The number of steps between the lowest and the highest score."""


class ScoreAnswers(Choices):
    """The lowest score of a range, the highest, and those between them at equal distances."""

    def __init__(self, task: Regression) -> None:
        self._task = task
        assert task.config.range is not None, "scores without a range are refused beforehand"
        self._low, self._high = task.config.range
        self.values = np.linspace(self._low, self._high, STEPS + 1)
        self.labels = written(self.values)

    def targets(self, table: Table) -> NDArray[np.int64]:
        scores = self._task.targets(table)
        places = np.rint((scores - self._low) / (self._high - self._low) * STEPS)
        return np.where(np.isnan(scores), NO_CHOICE, places).astype(np.int64)

    def from_scores(self, scores: NDArray) -> list[Any]:
        """Return {"score": number} for each row: the mean of all answers, weighted by their
        probabilities."""
        return [{"score": score} for score in (softmax(scores) @ self.values).tolist()]

    def from_numbers(self, numbers: Sequence[int]) -> list[Any]:
        """Return {"score": number} for each row."""
        return [{"score": float(self.values[number])} for number in numbers]


def written(values: NDArray[np.float64]) -> list[str]:
    """Return numbers as texts that are all different, with as few decimals as that needs, but at
    least one."""
    for decimals in range(1, 18):
        texts = [f"{value:.{decimals}f}" for value in values.tolist()]
        apart = np.abs(np.array(list(map(float, texts))) - values).max()
        if len(set(texts)) == len(texts) and apart < 1e-6 * (values[-1] - values[0]):
            return texts
    return [repr(value) for value in values.tolist()]
