"""A task type for the rows of a table: numbers and categories instead of a text.

Every cell becomes one token. A category is a token of its own (`c0xfarmer`: the first column with
categories), or several if it occurs only once in train. A number is the interval that it lies in
(`n0x2`: the third one of the first column with numbers), whose edges the task file gives. A cell
without a value is a token too. The cells of a row are a sequence, and the backbone is built from
scratch on these tokens (`model=tiny`): its attention combines columns as it otherwise combines
words (TabTransformer, Huang et al. 2020, which leaves numbers out of it).

Trunk, sharing, weighting and training know nothing of this: they see token ids, and a head with a
loss. Everything that makes it a table is in this file.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray

from mtlcli.config.section import section
from mtlcli.config.task import Task, task_types
from mtlcli.data.features import NO_TARGET, Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.metrics import metric
from mtlcli.registry import suggest
from mtlcli.tasks.base import Outputs, TaskType
from mtlcli.tasks.checks import counted, require_finite, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder


@section
class CellsColumns:
    """The columns of a task on table rows."""

    numbers: list[str]
    """Columns with numbers."""
    categories: list[str]
    """Columns with categories."""
    label: str = "label"
    """Column with the label."""


@task_types.register("cells", "Cells")
@section
class CellsTask(Task):
    """Classification of table rows with numbers and categories."""

    type: Literal["cells"] = "cells"
    """Task type."""
    columns: CellsColumns
    """Column names."""
    edges: dict[str, Annotated[list[float], MinLen(1)]]
    """The edges between the intervals of each column with numbers, in rising order."""
    labels: Annotated[list[str], MinLen(2)]
    """Class names, in the order of their ids."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        """Refuse edges that are missing or do not rise, and rows with more cells than the model
        reads."""
        numbers = self.columns.numbers
        for column in [name for name in numbers if name not in self.edges]:
            what = f"column '{column}' has no edges"
            yield Problem(what, f"{at}.edges", f"for example {column}: [10, 20]")
        for column, edges in self.edges.items():
            if column not in numbers:
                yield Problem(
                    f"'{column}' holds no numbers", f"{at}.edges", suggest(column, numbers)
                )
            if edges != sorted(set(edges)):
                yield Problem("the edges do not rise", f"{at}.edges.{column}", "sort them")
        cells = len(numbers) + len(self.columns.categories)
        if cells + 2 > length:  # The tokens for the beginning and the end.
            yield Problem(f"a row has {cells} cells", length_key, f"raise it to {cells + 2}")

    @property
    def allowed(self) -> list[Any]:
        return self.labels

    @property
    def class_column(self) -> str:
        return self.columns.label


class Cells(TaskType[CellsTask]):
    """One label out of a fixed set for a row of a table."""

    example = ([0, 1, 1], [0, 1, 0])

    @property
    def default_metrics(self) -> list[str]:
        return ["cells_accuracy"]

    @property
    def classes(self) -> list[str]:
        return self.config.labels

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        columns = self.config.columns
        return columns.numbers + columns.categories + ([columns.label] if labelled else [])

    def texts(self, table: Table) -> list[str]:
        """Return each row as words, one for each cell. The tokenizer of a model from scratch makes
        one token of each, because it is trained on them and they are few."""
        columns = []
        for number, column in enumerate(self.config.columns.numbers):
            edges = self.config.edges[column]
            cells = [_number(cell) for cell in table.column(column)]
            columns.append([f"n{number}x{_interval(cell, edges)}" for cell in cells])
        for number, column in enumerate(self.config.columns.categories):
            columns.append([f"c{number}x{_word(value)}" for value in table.column(column)])
        return [" ".join(row) for row in zip(*columns, strict=True)]

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = []
        for column in self.config.columns.numbers:
            values = table.column(column)
            wrong = [row for row, value in enumerate(values) if _number(value) is None]
            if wrong:
                what = f"column '{column}' holds {shown(values[wrong[0]])}, which is no number"
                fix = f"correct it, or name the column in tasks.{self.name}.columns.categories"
                problems.append(counted(table, wrong, what, fix))
        column = self.config.columns.label
        if column in table.rows.column_names:
            ids = self.targets(table)
            golds = table.column(column)
            wrong = [
                row
                for row, (label, gold) in enumerate(zip(ids, golds, strict=True))
                if label == NO_TARGET and (labelled or gold is not None)
            ]
            if wrong:
                what = f"label {shown(golds[wrong[0]])} is not one of the classes"
                fix = suggest(str(golds[wrong[0]]), self.config.labels)
                problems.append(counted(table, wrong, what, fix))
        return problems

    def targets(self, table: Table) -> NDArray[np.int64]:
        """Return the class id of each row, NO_TARGET where there is none: (rows,)."""
        ids = {label: number for number, label in enumerate(self.config.labels)}
        column = self.config.columns.label
        if column not in table.rows.column_names:
            return np.full(len(table), NO_TARGET)
        return np.array([ids.get(str(value), NO_TARGET) for value in table.column(column)])

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        features = encoder.encode(self.texts(table), None, self.max_length)
        features.columns["label"] = self.targets(table)[features.columns["row"]]
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        from mtlcli.tasks.heads import PooledHead

        layers = self.head_layers(int(dense))
        return PooledHead(hidden, len(self.config.labels), dropout, layers=layers, std=std)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the summed cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs["logits"], batch.columns["label"], reduction="sum")

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(np.count_nonzero(features.columns["label"][indices] != NO_TARGET))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"label": name} for each row."""
        require_finite(self.name, outputs["logits"])
        return [
            {"label": self.config.labels[number]} for number in outputs["logits"].argmax(1).tolist()
        ]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        return {"predictions": [prediction["label"] for prediction in predictions]}

    def references(self, table: Table) -> list[Any] | None:
        gold = self.gold(table)
        return None if None in gold else gold

    def gold(self, table: Table) -> list[Any]:
        labels = self.config.labels
        return [None if number == NO_TARGET else labels[number] for number in self.targets(table)]

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        return max(Counter(references).values()) / len(references)


@metric("cells_accuracy", "cells")
def cells_accuracy(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Return the share of rows with the right label."""
    right = sum(one == other for one, other in zip(predictions, references, strict=True))
    return {"cells_accuracy": right / len(references)}


def _interval(number: float | None, edges: list[float]) -> str:
    """Return the interval of a number, counted from 0; `none` where there is no number."""
    return "none" if number is None or math.isnan(number) else str(bisect_right(edges, number))


def _word(value: Any) -> str:
    """Return a category as letters and digits, since a tokenizer would split it elsewhere."""
    text = "" if value is None else str(value).strip()
    return "".join(each if each.isalnum() else f"u{ord(each)}" for each in text) or "none"


def _number(value: Any) -> float | None:
    """Return the number in a cell, NaN for a cell without a value, None for anything else."""
    if value is None or not str(value).strip():
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
