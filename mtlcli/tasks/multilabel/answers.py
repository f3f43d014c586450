"""Sets of labels as answers of a language model (`form=text`): the labels of a row in a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtlcli.data.table import Table
from mtlcli.tasks.answers import FreeText, plain

if TYPE_CHECKING:
    from mtlcli.tasks.multilabel.task import Multilabel

NONE = "none"
"""The answer where no label applies."""
SEPARATORS = (", ", "; ", " | ")
"""What may stand between two labels: the first that is part of no label."""


class LabelListAnswers(FreeText):
    """The labels of each row in the order of their ids, or the word for none."""

    def __init__(self, task: Multilabel) -> None:
        self._task = task
        self._texts = {label: label.replace("_", " ") for label in task.labels}
        self._labels = {plain(text): label for label, text in self._texts.items()}
        self._between = next(
            (
                each
                for each in SEPARATORS
                if not any(each.strip() in text for text in self._texts.values())
            ),
            SEPARATORS[-1],
        )

    def texts(self, table: Table) -> list[str | None]:
        return [None if labels is None else self._listed(labels) for labels in self._given(table)]

    def _given(self, table: Table) -> list[list[str] | None]:
        found: list[list[str] | None] = self._task.gold(table)
        return found

    def _listed(self, labels: Sequence[str]) -> str:
        given = set(labels)
        return (
            self._between.join(text for label, text in self._texts.items() if label in given)
            or NONE
        )

    def from_texts(self, texts: Sequence[str], table: Table) -> list[Any]:
        """Return {"labels": [names], "text": the answer} for each row. What is no label is left
        out."""
        predictions = []
        for text in texts:
            named = {plain(part) for part in text.split(self._between.strip())}
            labels = [label for bare, label in self._labels.items() if bare in named]
            predictions.append({"labels": labels, "text": text.strip()})
        return predictions
