"""Classification in task files: one label out of a fixed set for a text or a pair of texts. The
task itself is in task.py. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from mtlcli.config.schema import QUOTE_NULL, QUOTE_NUMBERS, QUOTE_TRUTHS
from mtlcli.config.section import section
from mtlcli.config.task import Task, TextColumns, task_types
from mtlcli.errors import Problem, count_of
from mtlcli.registry import suggest

CLASSES_NAMED = 20
"""Classes that a message names."""
NUMBER = re.compile(r"-?[0-9.e+]+")
READ_OTHERWISE = {"true": QUOTE_TRUTHS, "false": QUOTE_TRUTHS, "null": QUOTE_NULL}
"""What a name is likely to have been in a YAML file, where it is none of the names that there
are."""

Weight = Annotated[float, Gt(0)]


@task_types.register("classification", ".task:Classification")
@section
class ClassificationTask(Task):
    """One label out of a fixed set for a text or a pair of texts."""

    only_trained: ClassVar[tuple[str, ...]] = (
        *Task.only_trained,
        "class_weights",
        "label_smoothing",
    )
    """Keys that do nothing for a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (*Task.not_encoded, "class_weights", "label_smoothing")
    """Keys that do not affect the features."""
    type: Literal["classification"] = "classification"
    """Task type."""
    columns: TextColumns
    """Column names."""
    labels: Annotated[list[str], MinLen(2)] | None = None
    """Class names in the order of their ids. The label column holds ids or names. Null: the names
    that the train file itself has for its ids (`ClassLabel`), else the sorted distinct values of
    the train split."""
    label_ids: bool | None = None
    """Whether whole numbers in the label column are ids: places in `labels`, counted from 0. Null:
    only where no class name is a whole number; a run whose classes come from the train split
    settles on false."""
    class_weights: (
        Literal["balanced"] | Annotated[list[Weight], MinLen(2)] | dict[str, Weight] | None
    ) = None
    """What each class weighs in the loss: a number for each class in the order of the ids, or a
    mapping from class names to numbers, where classes that it leaves out weigh 1. `balanced`:
    inversely to the class's rows in the train split, rows / (classes * rows of the class). The mean
    is over the weights of the rows. Null: all alike."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The share of a row's label that is spread evenly over all classes in the loss (Szegedy et al.
    2016)."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
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
            yield from class_weight_problems(self, f"{at}.class_weights", self.labels)

    def head_problems(self, at: str, other: Task) -> Iterator[Problem]:
        if self.labels and self.labels != other.allowed:
            yield Problem(
                f"the labels differ from those of '{self.head}', whose head the task uses",
                f"{at}.labels",
                "leave them out",
            )

    @property
    def allowed(self) -> list[Any]:
        return self.labels or []

    @property
    def class_column(self) -> str:
        return self.columns.label

    @property
    def learns_classes(self) -> bool:
        return self.head is None and self.labels is None


def class_weight_problems(
    task: ClassificationTask, where: str, labels: list[str]
) -> Iterator[Problem]:
    """What is wrong with the weights of a task's classes, whose names are `labels`."""
    weights = task.class_weights
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
