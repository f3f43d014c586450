"""The options of multi-label tasks: any number of labels out of a fixed set for a text or a pair of
texts. The task itself is in task.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from mtlcli.config.section import section
from mtlcli.config.task import Task, TextColumn, listed, task_types
from mtlcli.errors import Problem
from mtlcli.tasks.classification import Weight, weight_problems


@section
class MultilabelColumns:
    """The columns of a multi-label task."""

    text: TextColumn
    """Column with the (first) text; or several, whose texts are joined by a space."""
    text_pair: TextColumn | None = None
    """Column or columns with the second text; null for single texts."""
    label: str | Annotated[list[str], MinLen(1)] = "labels"
    """Column with the list of a row's labels, as names or ids; or a list of columns, one for each
    label, that hold 0 or 1."""


@task_types.register("multilabel", ".task:Multilabel")
@section
class MultilabelTask(Task):
    """Multi-label classification: any number of labels out of a fixed set for a text or a pair."""

    only_trained: ClassVar[tuple[str, ...]] = (
        *Task.only_trained,
        *("class_weights", "pos_weight", "focal_gamma"),
    )
    """Keys that have no effect on a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (
        *Task.not_encoded,
        *("class_weights", "pos_weight", "threshold", "focal_gamma"),
    )
    """Keys that do not affect the features."""
    fixed_words: ClassVar[str | None] = None
    """Labels are taken to survive a few changed words."""
    mixes: ClassVar[bool] = True
    """The head reads the pooled vector alone."""
    compares: ClassVar[bool] = True
    """There is one output for each input."""
    no_text_form: ClassVar[None] = None
    """None: the answer is a list of the labels."""
    generated: ClassVar[bool] = True
    """True: a list of labels is a text of any length."""
    type: Literal["multilabel"] = "multilabel"
    """Task type."""
    columns: MultilabelColumns
    """Column names."""
    labels: Annotated[list[str], MinLen(1)] | None = None
    """Label names in the order of their ids. Null: the names of the columns, if there is one for
    each label; the names in the train file (`ClassLabel`); else the sorted distinct labels of the
    train split."""
    separator: Annotated[str, MinLen(1)] | None = None
    """What stands between the labels of a row where the column holds text (`joy;anger`), as in a
    csv file; null where it holds lists."""
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5
    """The least probability at which a label is predicted."""
    class_weights: Annotated[list[Weight], MinLen(1)] | dict[str, Weight] | None = None
    """Factor of each label's part of the loss: a list in the order of the ids, or a mapping from
    names to numbers (1 for the others). Null: equal factors."""
    pos_weight: (
        Literal["balanced"] | Annotated[list[Weight], MinLen(1)] | dict[str, Weight] | None
    ) = None
    """Factor of a label's loss in the rows that have the label, against the rows that do not; a
    list or a mapping as for `class_weights`. `balanced`: train rows without the label / train rows
    with it. Null: 1."""
    focal_gamma: Annotated[float, Ge(0)] = 0.0
    """Exponent of the focal loss (Lin et al. 2017): the loss of a label is multiplied by
    (1 - p)^gamma, where p is the probability of the right decision. 0: the plain loss."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        columns = self.columns.label
        if isinstance(columns, list):
            if self.labels and len(self.labels) != len(columns):
                yield Problem(
                    f"there are {len(self.labels)} names for {len(columns)} columns of labels",
                    f"{at}.labels",
                    "leave them out, or give one for each column, in their order",
                )
            if self.separator is not None:
                yield Problem(
                    "columns that hold 0 or 1 have nothing between labels",
                    f"{at}.separator",
                    "leave it out, or name a single column of labels",
                )
        if not self.labels:
            return
        if len(set(self.labels)) < len(self.labels):
            yield Problem(
                "a label is listed twice",
                f"{at}.labels",
                "give every label once, in the order of the ids",
            )
        if not self.head:
            for key in ("class_weights", "pos_weight"):
                yield from weight_problems(getattr(self, key), f"{at}.{key}", self.labels)

    def head_problems(self, at: str, other: Task) -> Iterator[Problem]:
        if self.labels and self.labels != other.allowed:
            yield Problem(
                f"the labels differ from those of '{self.head}', whose head the task uses",
                f"{at}.labels",
                "leave them out",
            )

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        if self.form == "text":
            yield f"{at}.threshold", "the labels are generated (form=text)", "leave it out"

    def text_problems(self, at: str) -> Iterator[Problem]:
        yield from self.answer_problems(at, [])
        yield from self.head_loss_problems(at, "class_weights", "pos_weight", "focal_gamma")

    @property
    def text_columns(self) -> list[str]:
        return [*listed(self.columns.text), *listed(self.columns.text_pair)]

    @property
    def allowed(self) -> list[Any]:
        return self.labels or []

    @property
    def learns_classes(self) -> bool:
        return self.head is None and self.labels is None
