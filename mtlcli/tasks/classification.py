"""Classification: one label out of a fixed set for a text or a pair of texts."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.config.task import ClassificationTask
from mtlcli.data.features import Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.tasks.base import Outputs, TaskType
from mtlcli.tasks.checks import counted, input_columns, is_text, require_finite, shown, text_problems, wrong_type

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder

MISSING = -100
"""Class id of a row without label, which the loss leaves out."""
UNKNOWN = -101
"""Class id of a row whose label is outside the set."""
WHOLE = re.compile(r"-?[0-9]+")
CLASSES_NAMED = 20
"""Classes that a message names."""


class Classification(TaskType[ClassificationTask]):
    """One label out of a fixed set.

    The label column holds names (text) or ids (whole numbers). Numbers are matched by name when every class name is itself
    a whole number (classes 1 to 5 for stars), else they are ids. Null, an empty text and -1, as on the hub, say that there is no label.
    """

    _learned = False

    @property
    def default_metrics(self) -> list[str]:
        return ["accuracy"]

    @property
    def labels(self) -> list[str]:
        """Class names in the order of their ids; of the task whose head this one uses, if it uses one."""
        labels = self._known_labels
        if labels is None:
            raise ValueError(f"the classes of task '{self.name}' are not known: prepare() has not seen a train split")
        return labels

    @property
    def _known_labels(self) -> list[str] | None:
        labels: list[str] | None = (self.owner or self).config.labels
        return labels

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        return input_columns(self.config.columns) + ([self.config.columns.label] if labelled else [])

    def texts(self, table: Table) -> list[str]:
        return [text for column in input_columns(self.config.columns) for text in table.column(column)]

    def prepare(self, train: Table | None) -> None:
        """Without configured labels: the sorted distinct values of the train split, numbers in the order of numbers.

        They are written into the config, so that the saved one is complete. -1 is no class unless the config says so.
        """
        column = self.config.columns.label
        if self._known_labels is not None or self.owner is not None or train is None or column not in train.rows.column_names:
            return
        if _holds_labels(train.rows.column(column).type):
            values = {int(value) if isinstance(value, bool) else value for value in train.rows.column(column).unique().to_pylist()}
            self._learned = True
            self.config.labels = [str(value) for value in sorted(values - {None, -1, ""})]

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = text_problems(table, input_columns(self.config.columns))
        if self.config.columns.label not in table.rows.column_names:
            return problems
        return problems + self._label_problems(table, labelled=labelled)

    def _label_problems(self, table: Table, *, labelled: bool) -> list[Problem]:
        column = self.config.columns.label
        if not _holds_labels(table.rows.column(column).type):
            needed = "class names (text) or ids (whole numbers) are needed"
            values = table.column(column)
            row = next((row for row, value in enumerate(values) if not (isinstance(value, float) and value.is_integer())), 0)
            fix = f"write the labels so (1, not 1.0), or name another column in tasks.{self.name}.columns.label"
            return [wrong_type(table, column, needed, fix, row)]
        if self._known_labels is None:
            if (self.owner or self).config.splits.train is not None:
                return []  # They would have come from the train split; what is wrong with that one is said there.
            return [Problem("the classes are not known without a train split", f"tasks.{self.name}.labels", "name the classes here")]
        ids = self._ids(table)
        missing = np.flatnonzero(ids == MISSING)
        if labelled and len(missing) == len(table):
            fix = f"name the column with the labels in tasks.{self.name}.columns.label, or fill it in"
            return [Problem(f"column '{column}' has no label in any of the {len(table):,} rows: null, empty or -1", table.origin, fix)]
        if len(self.labels) < 2:
            if table.split != self.config.splits.train:
                return []
            what = f"column '{column}' holds fewer than two classes: {', '.join(self.labels)}"
            return [Problem(what, table.origin, f"name all classes in tasks.{self.name}.labels, or leave the task out")]
        problems = []
        if len(unknown := np.flatnonzero(ids == UNKNOWN)):
            problems.append(self._unknown_labels(table, unknown))
        if labelled and len(missing):
            fix = f"fill it in, or leave the row out; allowed: {self._allowed()}"
            problems.append(counted(table, missing, f"column '{column}' has no label: null, empty or -1", fix))
        elif 0 < len(missing) < len(table):
            what = f"column '{column}' has no label: null, empty or -1, while other rows of the split have one"
            problems.append(counted(table, missing, what, "label all rows of a split, or none"))
        return problems

    def _unknown_labels(self, table: Table, rows: NDArray[np.int64]) -> Problem:
        """Rows whose label is outside the set."""
        column = table.rows.column(self.config.columns.label)
        values = column.take(pa.array(rows)).to_pylist()
        # In a csv file one word among numbers makes a text of every number: the word is the fault.
        words = [index for index, value in enumerate(values) if isinstance(value, str) and not WHOLE.fullmatch(value)]
        if 0 < len(words) < len(values):
            values, rows = [values[index] for index in words], rows[words]
        found = list(dict.fromkeys(values))
        first = found[0]
        if isinstance(first, str) and not words and 0 <= int(first) < len(self.labels):
            what, fix = f"label {first!r} is text, and an id is a whole number", f"write {first} without quotes, or the class name"
            return counted(table, rows, what, f"{fix}; allowed: {self._allowed()}")
        more = f"; others: {', '.join(map(shown, found[1:6]))}" if len(found) > 1 else ""
        what = f"label {shown(first)} ({'text' if isinstance(first, str) else 'a number'}) is not one of the classes{more}"
        return counted(table, rows, what, f"allowed: {self._allowed()}")

    def _allowed(self) -> str:
        """The classes, of many the first ones, and the key that says them."""
        shorter = self.labels[:CLASSES_NAMED]
        names = shorter if self._by_name else [f"{number} = {label}" for number, label in enumerate(shorter)]
        more = [f"... ({len(self.labels)} classes)"] if len(self.labels) > len(shorter) else []
        key = f"tasks.{(self.owner or self).name}.labels"
        origin = f"all that split '{self.config.splits.train}' has; name others in {key}" if self._learned else key
        return f"{', '.join(names + more)} ({origin})"

    def doubts(self, train: Table) -> list[Problem]:
        """Classes that no train row has."""
        present = set(self._ids(train).tolist())
        absent = [label for number, label in enumerate(self.labels) if number not in present]
        if not absent or self.owner is not None:
            return []
        named = ", ".join(absent[:CLASSES_NAMED]) + (", ..." if len(absent) > CLASSES_NAMED else "")
        what = f"no row of split '{train.split}' has the label {named}: what has no example is not learned"
        return [Problem(what, train.origin, f"add rows with them, or take them out of tasks.{self.name}.labels")]

    def targets(self, table: Table) -> NDArray:
        """Class ids."""
        return self._ids(table)

    @property
    def _by_name(self) -> bool:
        """Whether whole numbers in the label column are class names rather than ids."""
        return all(label.lstrip("-").isdigit() for label in self.labels)

    def _ids(self, table: Table) -> NDArray[np.int64]:
        """The class id of each row, MISSING or UNKNOWN: (rows,)."""
        column = self.config.columns.label
        if column not in table.rows.column_names:
            return np.full(len(table), MISSING, dtype=np.int64)
        numbers = {label: number for number, label in enumerate(self.labels)}
        by_name = self._by_name

        def class_id(value: Any) -> int:
            name = value if isinstance(value, str) else str(int(value)) if by_name and value is not None else None
            if name in numbers:
                return numbers[name]
            if value in (None, "", -1):
                return MISSING
            return int(value) if not by_name and not isinstance(value, str) and 0 <= value < len(numbers) else UNKNOWN

        values = table.column(column)
        ids = {value: class_id(value) for value in set(values)}
        return np.array([ids[value] for value in values], dtype=np.int64)

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        columns = self.config.columns
        pairs = table.column(columns.text_pair) if columns.text_pair else None
        features = encoder.encode(table.column(columns.text), pairs, self.max_length)
        features.columns["label"] = self._ids(table)[features.columns["row"]]
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        from mtlcli.tasks.heads import PooledHead

        return PooledHead(hidden, len(self.labels), dropout, layers=self.head_layers(int(dense)), std=std)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Cross entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs["logits"].float(), batch.columns["label"], ignore_index=MISSING, reduction="sum")

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(np.count_nonzero(features.columns["label"][indices] != MISSING))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """{"label": name, "probabilities": {name: probability}} for each row."""
        logits = np.empty((len(table), len(self.labels)))
        logits[features.columns["row"]] = outputs["logits"]
        require_finite(self.name, logits)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).tolist()
        best = logits.argmax(axis=1)
        return [
            {"label": self.labels[choice], "probabilities": dict(zip(self.labels, row, strict=True))}
            for choice, row in zip(best, probabilities, strict=True)
        ]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        """Class ids; F1 also needs to know how many classes there are."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        ids = [numbers[prediction["label"]] for prediction in predictions]
        return {"predictions": ids, "classes": len(self.labels)} if metric == "f1" else {"predictions": ids}

    def references(self, table: Table) -> list[Any] | None:
        """Class ids."""
        ids = self._ids(table)
        return None if (ids == MISSING).any() else ids.tolist()

    def majority(self, references: list[Any], metric: str) -> float:
        """accuracy: the share of the most frequent class. f1: of "always 1", or of the best constant under macro F1. matthews: 0."""
        shares = {label: count / len(references) for label, count in Counter(references).items()}
        if metric == "accuracy":
            return max(shares.values())
        if metric == "f1":
            # A constant prediction has recall 1 and the class's share as precision; every other class of the mean scores 0.
            if len(self.labels) == 2:
                return 2 * shares.get(1, 0.0) / (1 + shares.get(1, 0.0))
            return max(2 * share / (1 + share) for share in shares.values()) / len(shares)
        return 0.0


def _holds_labels(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
