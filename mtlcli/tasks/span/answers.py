"""Answers to questions as texts that a language model generates (`form=text`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtlcli.data.table import Table
from mtlcli.tasks.answers import FreeText

if TYPE_CHECKING:
    from mtlcli.tasks.span.task import Span

NONE = "unanswerable"
"""The answer to a question without one."""


class SpanAnswers(FreeText):
    """The first answer to each question, or the word for none."""

    def __init__(self, task: Span) -> None:
        self._task = task

    def texts(self, table: Table) -> list[str | None]:
        return [
            None if answers is None else (answers[0].strip() if answers else NONE)
            for answers in self._task.gold(table)
        ]

    def from_texts(self, texts: Sequence[str], table: Table) -> list[Any]:
        """Return {"id", "text", "n_best": [{"text"}]} for each row and, if questions may have no
        answer, "no_answer_probability": 1 where none is predicted, by the word for none or by a
        text of nothing, else 0."""
        none = self._task.config.no_answer
        predictions = []
        for number, text in zip(self._task.ids(table), texts, strict=True):
            kept = "" if none and text.strip().casefold() == NONE else text.strip()
            prediction: dict[str, Any] = {"id": number, "text": kept, "n_best": [{"text": kept}]}
            if none:
                prediction["no_answer_probability"] = float(kept == "")
            predictions.append(prediction)
        return predictions
