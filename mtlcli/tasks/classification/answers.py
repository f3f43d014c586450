"""Classes as answers of a language model (`form=text`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.table import Table
from mtlcli.tasks.answers import NO_CHOICE, Choices, softmax

if TYPE_CHECKING:
    from mtlcli.tasks.classification.task import Classification


class ClassAnswers(Choices):
    """The names of the classes, in the order of their ids."""

    def __init__(self, task: Classification) -> None:
        self._task = task
        self.labels = task.labels

    def targets(self, table: Table) -> NDArray[np.int64]:
        return np.maximum(self._task.targets(table), NO_CHOICE)

    def from_scores(self, scores: NDArray) -> list[Any]:
        """Return {"label": name, "probabilities": {name: probability}} for each row."""
        return [
            prediction | {"probabilities": dict(zip(self.labels, row, strict=True))}
            for prediction, row in zip(
                self.from_numbers(scores.argmax(axis=1).tolist()),
                softmax(scores).tolist(),
                strict=True,
            )
        ]

    def from_numbers(self, numbers: Sequence[int]) -> list[Any]:
        """Return {"label": name} for each row."""
        return [{"label": self.labels[number]} for number in numbers]
