"""The options of classification tasks: one label out of a fixed set for a text or a pair of texts.
The task itself is in task.py. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from mtlcli.config.schema import QUOTE_NULL, QUOTE_NUMBERS, QUOTE_TRUTHS
from mtlcli.config.section import section
from mtlcli.config.task import Task, TextColumn, TextColumns, listed, task_types
from mtlcli.errors import Problem, count_of
from mtlcli.registry import suggest

CLASSES_NAMED = 20
"""The largest number of classes that a message names."""
NUMBER = re.compile(r"-?[0-9.e+]+")
READ_OTHERWISE = {"true": QUOTE_TRUTHS, "false": QUOTE_TRUTHS, "null": QUOTE_NULL}
"""Name of an unknown class that YAML may have made of another word -> what to do about it."""

GROUPED = "group_exact_match"
"""The metric over groups of rows."""

Weight = Annotated[float, Gt(0)]


@task_types.register("classification", ".task:Classification")
@section
class ClassificationTask(Task):
    """Classification: one label out of a fixed set for a text or a pair of texts."""

    no_text_form: ClassVar[None] = None
    """None: labels and answers have texts."""
    only_trained: ClassVar[tuple[str, ...]] = (
        *Task.only_trained,
        *("class_weights", "label_smoothing", "focal_gamma"),
    )
    """Keys that have no effect on a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (
        *Task.not_encoded,
        *("class_weights", "label_smoothing", "focal_gamma", "group"),
    )
    """Keys that do not affect the features."""
    fixed_words: ClassVar[str | None] = None
    """Labels are taken to survive a few changed words."""
    mixes: ClassVar[bool] = True
    """The head reads the pooled vector alone."""
    compares: ClassVar[bool] = True
    """There is one output for each input."""
    type: Literal["classification"] = "classification"
    """Task type."""
    columns: TextColumns
    """Column names."""
    labels: Annotated[list[str], MinLen(2)] | None = None
    """Class names in the order of their ids. The label column holds ids or names. Null: the names
    in the train file (`ClassLabel`), else the sorted distinct values of the train split."""
    label_ids: bool | None = None
    """Whether whole numbers in the label column are ids: positions in `labels`, counted from 0.
    Null: true if no class name is a whole number; false if the classes come from the train
    split."""
    class_weights: (
        Literal["balanced"] | Annotated[list[Weight], MinLen(2)] | dict[str, Weight] | None
    ) = None
    """Weight of each class in the loss: a list in the order of the ids, or a mapping from class
    names to numbers (1 for the others). `balanced`: inversely proportional to the class's train
    rows, rows / (classes * rows of the class). The loss is the weighted mean over rows. Null: equal
    weights."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each row's label to spread evenly over all classes in the loss (Szegedy et al.
    2016)."""
    focal_gamma: Annotated[float, Ge(0)] = 0.0
    """Exponent of the focal loss (Lin et al. 2017): the loss of a row is multiplied by
    (1 - p)^gamma, where p is the probability of its class. 0: the plain loss."""

    group: TextColumn | None = None
    """Column, or columns, with the same values in all rows that belong together, such as the
    answers to one question: `group_exact_match` is the share of groups all of whose rows are right.
    Null: rows stand alone."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        if GROUPED in self.metrics and self.group is None:
            yield Problem(
                f"{GROUPED} counts groups of rows, and no column says which belong together",
                f"{at}.group",
                "name the column, for example that of the question",
            )
        if not self.labels:
            return
        if len(set(self.labels)) < len(self.labels):
            yield Problem(
                "a label is listed twice",
                f"{at}.labels",
                "give every label once, in the order of the ids",
            )
        if not all(map(str.strip, self.labels)):
            yield Problem(
                "a label is empty",
                f"{at}.labels",
                "name it: an empty field in the label column means that a row has no label",
            )
        if not self.head:
            yield from weight_problems(self.class_weights, f"{at}.class_weights", self.labels)

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        if GROUPED not in self.metrics:
            fix = f"leave it out, or type '{at}.metrics=[{GROUPED}]'"
            yield f"{at}.group", f"the task has no metric {GROUPED}", fix

    def head_problems(self, at: str, other: Task) -> Iterator[Problem]:
        if self.labels and self.labels != other.allowed:
            yield Problem(
                f"the labels differ from those of '{self.head}', whose head the task uses",
                f"{at}.labels",
                "leave them out",
            )

    def text_problems(self, at: str) -> Iterator[Problem]:
        yield from self.answer_problems(at, self.labels or []) if self.labels else ()
        yield from self.head_loss_problems(at, "class_weights", "label_smoothing", "focal_gamma")

    @property
    def text_columns(self) -> list[str]:
        return self.columns.inputs

    @property
    def allowed(self) -> list[Any]:
        return self.labels or []

    @property
    def together(self) -> str | None:
        """The column that keeps the rows of a group together in draws: of several, the last."""
        return listed(self.group)[-1] if self.group else None

    @property
    def class_column(self) -> str:
        return self.columns.label

    @property
    def learns_classes(self) -> bool:
        return self.head is None and self.labels is None


def weight_problems(
    weights: str | list[float] | dict[str, float] | None, where: str, labels: list[str]
) -> Iterator[Problem]:
    """Yield the problems of the weights of a task's classes. `labels`: the names of the classes."""
    if isinstance(weights, list) and len(weights) != len(labels):
        what = (
            f"there {'is' if len(weights) == 1 else 'are'} {count_of(len(weights), 'number')} "
            f"for {len(labels)} classes"
        )
        yield Problem(
            what,
            where,
            f"give one for each class in this order: {', '.join(labels[:CLASSES_NAMED])}",
        )
    elif isinstance(weights, dict):
        for name in weights:
            if name not in labels:
                quotes = READ_OTHERWISE.get(name) or (
                    QUOTE_NUMBERS if NUMBER.fullmatch(name) else ""
                )
                fix = f"{quotes}; {suggest('', labels)}" if quotes else suggest(name, labels)
                yield Problem(f"there is no class '{name}'", where, fix)
