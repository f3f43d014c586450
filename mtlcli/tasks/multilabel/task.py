"""Multi-label classification: any number of labels out of a fixed set for a text or a pair.

Each label is a decision of its own: the loss is the binary cross entropy of its logit, and a label
is predicted where its probability reaches a threshold.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.data.features import Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.metrics import compute, main_key
from mtlcli.registry import suggest
from mtlcli.tasks.base import LibraryHead, Outputs
from mtlcli.tasks.checks import (
    counted,
    is_list,
    is_text,
    require_finite,
    shown,
    text_problems,
    wrong_type,
)
from mtlcli.tasks.classification import weight_problems
from mtlcli.tasks.multilabel import MultilabelTask
from mtlcli.tasks.texts import TextTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.multilabel.answers import LabelListAnswers

UNLABELLED = -1
"""Value of every label of a row without labels; the loss leaves such rows out."""
FLAGS: dict[Any, int] = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
"""What a column of one label may hold. True and 1.0 equal 1 here."""
NO_FLAG = (None, "", -1, "-1")
"""What such a column holds in a row without labels, in all of its columns."""

Labels = list[str | None]
"""The labels of a row by name; None for an empty place in its list."""


class Multilabel(TextTask[MultilabelTask]):
    """A task with any number of labels for each text or pair.

    The label column holds lists of names, or lists of ids: of the labels that the file itself names
    (`ClassLabel`), else of `labels`; or text with the names, between which `separator` stands. Or
    each label has a column of its own with 0 or 1. An empty list, and a row of zeros, says that no
    label applies; null, an empty text and a row of -1 that the row is unlabelled.
    """

    example = ([[0, 1], [1, 1]], [[0, 1], [1, 0]])
    label_kind = "labels"
    _train: Table | None = None
    _factors: dict[str, Tensor] | None = None
    """The weights of the loss on the device of the model, once a loss has used them."""

    @property
    def default_metrics(self) -> list[str]:
        return ["f1_micro", "f1_macro", "subset_accuracy"]

    @property
    def _label_columns(self) -> list[str]:
        columns = self.config.columns.label
        return columns if isinstance(columns, list) else [columns]

    @property
    def _key(self) -> str:
        return f"tasks.{self.name}.columns.label"

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        return self.input_columns + (self._label_columns if labelled else [])

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        if not self._readable(table):
            return np.ones(len(table), bool)
        return np.array([labels is not None for labels in self._sets(table)], bool)

    def prepare(self, train: Table | None, others: Sequence[Table] = ()) -> None:
        """Learn the labels if the config does not name them: the names of the columns, else those
        that the train file names, else the distinct ones of the train split, sorted. They are
        written into the config, so that the saved config is complete."""
        self._train = train
        if self._known_labels is not None or self.head_owner is not None:
            return
        columns = self.config.columns.label
        if isinstance(columns, list):
            self.config = replace(self.config, labels=list(columns))
        elif train is not None and self._readable(train):
            found = train.class_names(columns) or sorted(
                {label for labels in self._sets(train) for label in labels or [] if label},
                key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name),
            )
            if found:
                self.config = replace(self.config, labels=found)

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = text_problems(table, self.input_columns)
        there = [name for name in self._label_columns if name in table.rows.column_names]
        if not there or (len(there) < len(self._label_columns) and not labelled):
            return problems
        if table.split == self.config.splits.train and self._known_labels is not None:
            for key in ("class_weights", "pos_weight"):
                weights = getattr(self.config, key)
                problems += weight_problems(weights, f"tasks.{self.name}.{key}", self.labels)
        if isinstance(self.config.columns.label, list):
            found = self._flag_problems(table)
        else:
            found = self._list_problems(table)
        return problems + (found or self._missing_problems(table, labelled=labelled))

    def _flag_problems(self, table: Table) -> list[Problem]:
        """Return the faults of columns that hold 0 or 1."""
        rows = self._flags(table)
        for number, name in enumerate(self._label_columns):
            odd = [row for row, flags in enumerate(rows) if flags[number] is None]
            if odd:
                value = shown(table.rows.column(name)[odd[0]].as_py())
                what = f"column '{name}' holds {value}, where 0 or 1 is needed"
                fix = f"write 1 where the label applies and 0 where not, or correct {self._key}"
                return [counted(table, odd, what, fix)]
        partly = [row for row, flags in enumerate(rows) if 0 < flags.count(UNLABELLED) < len(flags)]
        if not partly:
            return []
        name = self._label_columns[rows[partly[0]].index(UNLABELLED)]
        what = f"column '{name}' is empty, while other labels of the row are known"
        return [counted(table, partly, what, "write 0 or 1 into each column, or into none")]

    def _flags(self, table: Table) -> list[list[int | None]]:
        """Return for each row what the columns of its labels say, see `_flag`."""
        columns = ([_flag(value) for value in table.column(name)] for name in self._label_columns)
        return [list(flags) for flags in zip(*columns, strict=True)]

    def _list_problems(self, table: Table) -> list[Problem]:
        """Return the faults of a column of lists, or of text with a separator."""
        column = self._label_columns[0]
        if not self._readable(table):
            kind = table.rows.column(column).type
            needed = "lists of labels or of ids are needed"
            fix = f'give each row a list, ["joy", "anger"], or name another column in {self._key}'
            if is_text(kind):
                fix += f"; if the text has several labels, tasks.{self.name}.separator=';'"
            return [wrong_type(table, column, needed, fix)]
        if self._known_labels is None:
            return self._unknown_set(table)
        known, rows = set(self.labels), self._sets(table)
        strange = [
            row for row, labels in enumerate(rows) if labels and not known.issuperset(labels)
        ]
        if not strange:
            return []
        label = next(each for each in rows[strange[0]] or [] if each not in known)
        what = (
            f"an entry of column '{column}' is empty"
            if label is None
            else f"label {shown(label)} is not one of the labels"
        )
        key = f"tasks.{(self.head_owner or self).name}.labels"
        return [counted(table, strange, what, f"{suggest(label or '', self.labels)} ({key})")]

    def _unknown_set(self, table: Table) -> list[Problem]:
        """Return the problem of a task whose labels nothing names."""
        if (self.head_owner or self).config.splits.train is None:
            what = "the labels are not known without a train split"
            return [Problem(what, f"tasks.{self.name}.labels", "name the labels here")]
        if table.split != self.config.splits.train:
            return []  # The check of the train split reports its fault.
        what = f"no row of the {len(table):,} has a label in column '{self._label_columns[0]}'"
        fix = f"name the column with the labels in {self._key}"
        return [Problem(what, table.origin, fix)]

    def _missing_problems(self, table: Table, *, labelled: bool) -> list[Problem]:
        """Return the problem of rows that are unlabelled: null, not an empty list."""
        missing = [row for row, labels in enumerate(self._sets(table)) if labels is None]
        names = ", ".join(self._label_columns[:5])
        if labelled and len(missing) == len(table):
            what = f"no row of the {len(table):,} has labels (column {names})"
            fix = f"name the column with the labels in {self._key}"
            return [Problem(what, table.origin, fix)]
        if missing and (labelled or len(missing) < len(table)) and not self._skips:
            fix = (
                "give the row its labels ([] or zeros where none applies), or leave it out: "
                f"{self._skip}"
            )
            return [counted(table, missing, f"the row has no labels (column {names})", fix)]
        return []

    def doubts(self, train: Table) -> list[Problem]:
        """Return a warning about labels that no train row has."""
        present = {label for labels in self._sets(train) for label in labels or []}
        absent = [label for label in self.labels if label not in present]
        named = train.class_names(self._label_columns[0]) is not None
        if not absent or self.head_owner is not None or named:
            return []
        what = (
            f"no row of split '{train.split}' has the label {', '.join(absent[:20])}: a label "
            "without examples cannot be learned"
        )
        fix = f"add rows with it, or take it out of tasks.{self.name}.labels"
        return [Problem(what, train.origin, fix)]

    def targets(self, table: Table) -> NDArray | None:
        """Return a checksum of the labels of each row: (rows,)."""
        if self._known_labels is None:
            return None
        rows = self._matrix(table)
        return np.fromiter((zlib.crc32(row.tobytes()) for row in rows), np.int64, len(table))

    def _readable(self, table: Table) -> bool:
        """Return whether the label columns are there and have types that can hold labels."""
        columns = self._label_columns
        if not set(columns) <= set(table.rows.column_names):
            return False
        if isinstance(self.config.columns.label, list):
            return True
        kind = table.rows.column(columns[0]).type
        if pa.types.is_null(kind):
            return True
        if is_text(kind):
            return self.config.separator is not None
        inner = kind.value_type if is_list(kind) else kind
        fits = is_text(inner) or pa.types.is_integer(inner) or pa.types.is_null(inner)
        return is_list(kind) and fits and self.config.separator is None

    def _sets(self, table: Table) -> list[Labels | None]:
        """Return the labels of each row by name; None for an unlabelled row. An id outside the
        names is written as a number, which the check refuses."""
        if not self._readable(table):
            return [None] * len(table)
        columns = self._label_columns
        if isinstance(self.config.columns.label, list):
            names = self._known_labels or columns
            return [
                None
                if flags.count(UNLABELLED) == len(flags)
                else [name for name, flag in zip(names, flags, strict=True) if flag == 1]
                for flags in self._flags(table)
            ]
        rows, kind = table.column(columns[0]), table.rows.column(columns[0]).type
        if is_text(kind):
            texts = [row.strip() if row else "" for row in rows]
            separator = self.config.separator
            return [
                [part.strip() for part in text.split(separator)] if text else None for text in texts
            ]
        if pa.types.is_null(kind) or not pa.types.is_integer(kind.value_type):
            return rows
        named = table.class_names(columns[0]) or self._known_labels or []
        return [None if row is None else [_name(number, named) for number in row] for row in rows]

    def _matrix(self, table: Table) -> NDArray[np.int8]:
        """Return 1 where a row has a label and 0 where not; UNLABELLED throughout a row without
        labels: (rows, labels)."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        found = np.zeros((len(table), len(numbers)), np.int8)
        for row, labels in enumerate(self._sets(table)):
            if labels is None:
                found[row] = UNLABELLED
            else:
                found[row, [numbers[label] for label in labels if label in numbers]] = 1
        return found

    def answers(self) -> LabelListAnswers:
        from mtlcli.tasks.multilabel.answers import LabelListAnswers

        return LabelListAnswers(self)

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return a feature for each row. columns: `labels`, (N, labels), see `_matrix`."""
        features = self.encode_texts(table, encoder)
        features.columns["labels"] = self._matrix(table)[features.columns["row"]]
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        from mtlcli.tasks.heads import PooledHead

        return PooledHead(
            hidden, len(self.labels), dropout, layers=self.head_layers(int(dense)), std=std
        )

    def library_head(self) -> LibraryHead | str:
        threshold = self.config.threshold
        limits = (f"A label is predicted where its probability is {threshold:g} or more.",)
        return LibraryHead(
            "SequenceClassification", tuple(self.labels), "multi_label_classification", limits
        )

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the binary cross entropy of all labels, their mean for each row, summed over the
        labelled rows."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        from mtlcli.tasks.losses import binary_factor

        logits, targets = outputs["logits"].float(), batch.columns["labels"]
        if self._factors is None or any(
            factor.device != logits.device for factor in self._factors.values()
        ):
            self._factors = {
                name: logits.new_tensor(values) for name, values in self._weights.items()
            }
        losses = binary_cross_entropy_with_logits(
            logits,
            targets.clamp(min=0).float(),
            weight=self._factors.get("weight"),
            pos_weight=self._factors.get("pos_weight"),
            reduction="none",
        )
        if self.config.focal_gamma:
            losses = losses * binary_factor(logits, targets, self.config.focal_gamma)
        return (losses.mean(dim=1) * (targets[:, 0] != UNLABELLED)).sum()

    @cached_property
    def _weights(self) -> dict[str, list[float]]:
        """The arguments of torch's loss that the config sets, with a number for each label."""
        found = {}
        for argument, given in (
            ("weight", self.config.class_weights),
            ("pos_weight", self.config.pos_weight),
        ):
            if isinstance(given, list):
                found[argument] = given
            elif isinstance(given, dict):
                found[argument] = [given.get(label, 1.0) for label in self.labels]
            elif given == "balanced" and self._train is not None:
                rows = self._matrix(self._train)
                rows = rows[rows[:, 0] != UNLABELLED]
                have = rows.sum(axis=0, dtype=np.int64)
                odds = (len(rows) - have) / np.maximum(have, 1)
                # A label that no row has, or every row, has no odds.
                usual = (have == 0) | (have == len(rows))
                found[argument] = np.where(usual, 1.0, odds).tolist()
        return found

    def divergence(self, outputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        from mtlcli.tasks.losses import binary_divergence

        return binary_divergence(outputs["logits"], others["logits"])

    def distance(self, outputs: dict[str, Tensor], teacher: Tensor, temperature: float) -> Tensor:
        from mtlcli.tasks.losses import binary_distance

        return binary_distance(outputs["logits"], teacher, temperature)

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(np.count_nonzero(features.columns["labels"][indices, 0] != UNLABELLED))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"labels": [names], "probabilities": {name: probability}} for each row."""
        logits = np.empty((len(table), len(self.labels)))
        logits[features.columns["row"]] = outputs["logits"]
        require_finite(self.name, logits)
        probabilities = np.exp(-np.logaddexp(0.0, -logits))
        return [
            {
                "labels": [
                    label
                    for label, value in zip(self.labels, row, strict=True)
                    if value >= self.config.threshold
                ],
                "probabilities": dict(zip(self.labels, row, strict=True)),
            }
            for row in probabilities.tolist()
        ]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        """Return the predictions as rows of 0 and 1, and the number of labels."""
        rows = self._rows([prediction["labels"] for prediction in predictions])
        return {"predictions": rows, **self._options(metric)}

    def references_of(self, rows: list[dict[str, Any]]) -> list[Any]:
        return self._rows([row["gold"] for row in rows])

    def _rows(self, sets: list[list[str]]) -> list[list[int]]:
        """Return a row of 0 and 1, one for each label, for each list of label names."""
        return [[int(label in labels) for label in self.labels] for labels in map(set, sets)]

    def _options(self, metric: str) -> dict[str, Any]:
        averaged = metric.startswith(("f1", "precision", "recall"))
        return {"classes": len(self.labels)} if averaged else {}

    def references(self, table: Table) -> list[Any] | None:
        """Return a row of 0 and 1 for each row, or None when one is unlabelled."""
        rows = self._matrix(table)
        return None if (rows == UNLABELLED).any() else rows.tolist()

    def gold(self, table: Table) -> list[Any]:
        """Return the label names of each row, or None for an unlabelled row."""
        known = set(self.labels)
        return [
            labels if labels is not None and known.issuperset(labels) else None
            for labels in self._sets(table)
        ]

    def describe(self, gold: list[Any]) -> str:
        """Return the number of each label, and of the rows to which none applies."""
        none = sum(not labels for labels in gold)
        text = super().describe([label for labels in gold for label in labels])
        return text + (f"{', ' if text else ''}none of them {none:,}" if none else "")

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the best score of giving all rows the same labels: the most frequent set of
        labels, the most frequent label, the n most frequent ones with the best F1, or all."""
        table = np.array(references)
        counts = table.sum(axis=0)
        order = np.argsort(-counts, kind="stable")
        found = np.cumsum(counts[order])
        f1 = 2 * found / (len(table) * np.arange(1, len(order) + 1) + max(found[-1], 1))
        constants = {Counter(map(tuple, references)).most_common(1)[0][0]}
        for size in (1, int(f1.argmax()) + 1, len(order)):
            constants.add(tuple(np.isin(np.arange(len(order)), order[:size]).astype(int).tolist()))
        return max(
            compute(metric, [list(each)] * len(table), references, **self._options(metric))[
                main_key(metric)
            ]
            for each in sorted(constants)
        )


def _name(number: int | None, names: Sequence[str]) -> str | None:
    """Return the label of an id, or the id as text where it has none."""
    if number is None:
        return None
    return names[number] if 0 <= number < len(names) else str(number)


def _flag(value: Any) -> int | None:
    """Return what the value of a label's own column says: 0, 1 or UNLABELLED; None where it says
    none of these."""
    if isinstance(value, str):
        value = value.strip().lower()
    if value in NO_FLAG or value != value:
        return UNLABELLED
    return FLAGS.get(value) if isinstance(value, str | int | float) else None
