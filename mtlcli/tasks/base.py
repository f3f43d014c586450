"""A task type: how examples become features, which head, which loss, how outputs become
predictions, which metrics.

Everything a type does stands side by side in one file, and nobody else asks what type a task has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.task import Task, task_types
from mtlcli.data.features import Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder

C = TypeVar("C", bound=Task)
Outputs = dict[str, NDArray]
"""What a head gives for the features of a split, as arrays: per feature (N, ...) or, for token
outputs, flat (total tokens, ...)."""


@dataclass
class Encoded:
    """What a backbone gives a head."""

    hidden: Tensor
    """Token states: (batch, length, hidden); (batch, 1, hidden) where no head asks for more."""
    pooled: Tensor
    """One vector per input: (batch, hidden)."""
    mask: Tensor
    """True where there is a token, False where there is padding: (batch, length)."""


class TaskType(ABC, Generic[C]):
    """One task of a run, made from its config. Subclasses are the task types; torch is imported
    only inside the methods that need it."""

    token_outputs: ClassVar[bool] = False
    """Whether `head` gives one output per token (then outputs are gathered flat over tokens), or
    one per feature, from the pooled vector alone."""
    item: ClassVar[str] = "example"
    """What the loss is a mean over, in words."""
    loss_kind: ClassVar[str] = "classification"
    """`classification` (a log likelihood over classes) or `regression` (a squared error):
    uncertainty weighting has a term for each."""

    def __init__(self, name: str, config: C) -> None:
        self.name = name
        self.config = config
        self.owner: TaskType[C] | None = None
        """The task whose head this task uses; None for a head of its own. Set when the tasks of a
        run are built."""

    @property
    @abstractmethod
    def default_metrics(self) -> list[str]:
        """Names of metrics in mtlcli/metrics, the main one first."""

    @property
    def metrics(self) -> list[str]:
        """The metrics to compute, the main one first."""
        return self.config.metrics or self.default_metrics

    @property
    def max_length(self) -> int:
        """Longest input in tokens. `data.max_length` has been filled in where the task's own is
        null."""
        if self.config.max_length is None:
            raise ValueError(
                f"max_length of task '{self.name}' was not resolved from data.max_length"
            )
        return self.config.max_length

    @property
    def _skip(self) -> str:
        """The setting that leaves rows without a label out."""
        return f"tasks.{self.name}.unlabelled=skip"

    @property
    def _skips(self) -> bool:
        """Whether rows without a label beside others are no fault. Where they are in the table at
        all, a prediction is wanted for each."""
        return self.config.unlabelled == "skip"

    def head_layers(self, usual: int) -> int:
        """Dense layers of the head before its output layer: what the config says, else `usual`."""
        return usual if self.config.head_layers is None else self.config.head_layers

    @abstractmethod
    def required_columns(self, *, labelled: bool = True) -> list[str]:
        """Columns of the table that must be there; without the gold column when the split may be
        unlabelled."""

    @abstractmethod
    def texts(self, table: Table) -> list[str]:
        """All text of a table, on which a tokenizer can be trained."""

    def prepare(self, train: Table | None, others: Sequence[Table] = ()) -> None:
        """Learn from the train split what the config leaves open (for example the label set), and
        from all splits what must be the same in each (for example whether labels are names or ids).
        Called once, before `check`. `others`: the other splits of the task."""

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        """Which rows say that they have a label, sound or not: (rows,). Asked before `prepare`."""
        return np.ones(len(table), bool)

    def has_input(self, table: Table) -> NDArray[np.bool_]:
        """Which rows have something in every column of text that the model reads: (rows,)."""
        found = np.ones(len(table), bool)
        for column in self.required_columns(labelled=False):
            if column in table.rows.column_names:
                found &= [
                    not isinstance(value, str | None) or bool(value and value.strip())
                    for value in table.column(column)
                ]
        return found

    @abstractmethod
    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        """What is wrong with the rows, each with file and row (`table.where(row)`) and what to do.
        Columns are known to be there.

        Many rows with the same fault are one Problem: the count and the first of them. `labelled`:
        whether labels are needed (train and validation) or may be missing (test).
        """

    def doubts(self, train: Table) -> list[Problem]:
        """What is strange about a sound train split, and stops nothing."""
        return []

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes that `targets` numbers; empty where the targets are no
        classes."""
        return ()

    def targets(self, table: Table) -> NDArray | None:
        """One number per row that is the same where the labels are: (rows,). None when labels are
        not compared."""
        return None

    @abstractmethod
    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Features of all rows, in row order. Labels that are missing are -100 (ids) or NaN
        (scores)."""

    @abstractmethod
    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """The module `head(encoded: Encoded) -> dict[str, Tensor]`. `dense`: put a dense tanh layer
        before the output layer (for backbones whose pooled vector has not passed one). `std`:
        standard deviation of the initial weights."""

    @abstractmethod
    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """The loss SUMMED over the batch's labelled items: scalar, fp32. The caller divides by what
        `items` gives for the whole step."""

    @abstractmethod
    def items(self, features: Features, indices: NDArray[np.int64]) -> float:
        """How many labelled items these features hold, or the sum of their weights: the denominator
        of their mean loss."""

    @abstractmethod
    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """One JSON-ready prediction per row of the table."""

    @abstractmethod
    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        """What `compute(metric, references=..., **inputs)` takes: `predictions` in the metric's
        form, and the metric's options.

        `predictions`: what `decode` gave.
        """

    def official_files(self, predictions: list[Any]) -> dict[str, Any]:
        """Predictions in the form that a data set's official script reads: file name ending -> JSON
        content."""
        return {}

    @abstractmethod
    def references(self, table: Table) -> list[Any] | None:
        """The gold answers, one per row, in the form that the metrics take; None when the split has
        no labels."""

    @abstractmethod
    def gold(self, table: Table) -> list[Any]:
        """What is right, one per row, as a file of predictions shows it; None for a row without
        label."""

    @abstractmethod
    def majority(self, references: list[Any], metric: str) -> float:
        """The score of the best constant prediction under `metric` (0 for correlations), over
        `references`."""


def build_tasks(configs: dict[str, Any]) -> dict[str, TaskType[Any]]:
    """The tasks of a run, by name, in the order of the config."""
    tasks: dict[str, TaskType[Any]] = {
        name: task_types.implementation(config.type)(name, config)
        for name, config in configs.items()
    }
    for task in tasks.values():
        task.owner = tasks[task.config.head] if task.config.head else None
    return tasks
