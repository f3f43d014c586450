"""Texts that are written for texts as answers of a language model (`form=text`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtlcli.data.table import Table
from mtlcli.tasks.answers import FreeText

if TYPE_CHECKING:
    from mtlcli.tasks.seq2seq.task import Seq2Seq


class TargetAnswers(FreeText):
    """The target of each row."""

    def __init__(self, task: Seq2Seq) -> None:
        self._task = task

    def longest(self, max_length: int) -> int:
        return self._task.config.longest

    def texts(self, table: Table) -> list[str | None]:
        return self._task.gold(table)

    def from_texts(self, texts: Sequence[str], table: Table) -> list[Any]:
        """Return {"text": the text that was written} for each row."""
        return [{"text": text.strip()} for text in texts]
