"""What the task types have in common whose input is a text or a pair of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mtlcli.config.task import Task, TextColumn, TextColumns, listed
from mtlcli.data.features import Features
from mtlcli.data.table import Table
from mtlcli.tasks.base import TaskType

if TYPE_CHECKING:
    from mtlcli.data.encoder import TextEncoder

C = TypeVar("C", bound=Task)


class TextTask(TaskType[C]):
    """A task on a text or a pair of texts with one label each. Its config has `columns`,
    which are TextColumns."""

    @property
    def input_columns(self) -> list[str]:
        """The columns that hold the text, or the pair."""
        columns = self._columns
        return [*listed(columns.text), *listed(columns.text_pair)]

    @property
    def _columns(self) -> TextColumns:
        config: Any = self.config
        columns: TextColumns = config.columns
        return columns

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        return self.input_columns + ([self._columns.label] if labelled else [])

    def texts(self, table: Table) -> list[str]:
        return [text for column in self.input_columns for text in table.column(column)]

    def encode_texts(self, table: Table, encoder: TextEncoder) -> Features:
        """Return the features of a table's texts, still without their labels."""
        columns = self._columns
        pairs = _joined(table, columns.text_pair) if columns.text_pair is not None else None
        return encoder.encode(_joined(table, columns.text), pairs, self.max_length)


def _joined(table: Table, columns: TextColumn) -> list[str]:
    """Return the text of each row: that of the column, or those of the columns, with a space
    between them."""
    texts = [table.column(column) for column in listed(columns)]
    return texts[0] if len(texts) == 1 else [" ".join(parts) for parts in zip(*texts, strict=True)]
