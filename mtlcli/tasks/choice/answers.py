"""Options as answers of a language model (`form=text`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.table import Table
from mtlcli.tasks.answers import NO_CHOICE, Options

if TYPE_CHECKING:
    from mtlcli.tasks.choice.task import Choice


class OptionAnswers(Options):
    """The options of each row."""

    def __init__(self, task: Choice) -> None:
        self._task = task

    def texts(self, table: Table) -> list[list[str]]:
        return self._task.options(table)

    def targets(self, table: Table) -> NDArray[np.int64]:
        return np.maximum(self._task.targets(table), NO_CHOICE)

    def from_scores(self, scores: Sequence[NDArray], table: Table) -> list[Any]:
        return self._task.from_scores(scores, table)
