"""What a task type gives so that its tasks can be put as prompt and answer (`form=text`)."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.table import Table

NO_CHOICE = -1
"""The number of a choice where a row has no label."""
USUAL = 32
"""The most tokens of an answer of a few words, its end included."""


class Choices(ABC):
    """The labels of a task as a list of answers of which one is right."""

    labels: Sequence[str]
    """The labels, as they are written where a template gives no other text."""

    @abstractmethod
    def targets(self, table: Table) -> NDArray[np.int64]:
        """Return the number of the right answer of each row, NO_CHOICE where there is none:
        (rows,)."""

    @abstractmethod
    def from_scores(self, scores: NDArray) -> list[Any]:
        """Return one prediction per row, in the form of the task type's `decode`. `scores`: the
        scores of all answers, like logits: (rows, answers)."""

    @abstractmethod
    def from_numbers(self, numbers: Sequence[int]) -> list[Any]:
        """Return one prediction per row from the number of the answer that was generated."""


class Options(ABC):
    """A task whose rows each have answers of their own, of which one is right."""

    @abstractmethod
    def texts(self, table: Table) -> list[list[str]]:
        """Return the answers of each row."""

    @abstractmethod
    def targets(self, table: Table) -> NDArray[np.int64]:
        """Return the number of the right answer of each row, NO_CHOICE where there is none:
        (rows,)."""

    @abstractmethod
    def from_scores(self, scores: Sequence[NDArray], table: Table) -> list[Any]:
        """Return one prediction per row, in the form of the task type's `decode`. `scores`: for
        each row the scores of its answers, like logits."""


class FreeText(ABC):
    """A task whose answers are any text."""

    def longest(self, max_length: int) -> int:
        """Return the most tokens of an answer, its end included, where `text.max_answer` names no
        number. `max_length`: the longest input of the task."""
        return USUAL

    @abstractmethod
    def texts(self, table: Table) -> list[str | None]:
        """Return the right answer of each row, None where there is none."""

    @abstractmethod
    def from_texts(self, texts: Sequence[str], table: Table) -> list[Any]:
        """Return one prediction per row, in the form of the task type's `decode`, from the
        generated texts."""


def plain(text: str) -> str:
    """Return a text without what tokenizers change when they write it: white space, case, accents
    and the width of characters."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(each for each in apart if not each.isspace() and not unicodedata.combining(each))


def softmax(scores: NDArray) -> NDArray[np.float64]:
    """Return probabilities (rows, answers) of scores of the same shape."""
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities
