"""The options of multiple-choice tasks: which of several texts goes with a context. The task itself
is in task.py. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen

from mtlcli.config.section import section
from mtlcli.config.task import Task, task_types


@section
class ChoiceColumns:
    """The columns of a multiple-choice task."""

    context: str | Annotated[list[str], MinLen(1)]
    """Column with the text that the options are about, or several columns, whose texts are
    joined."""
    question: str | None = None
    """Column with the question, or the beginning of the options: it stands before each option.
    Null: the options stand alone."""
    options: str | Annotated[list[str], MinLen(2)]
    """Column with the list of a row's options, or a list of columns, one for each option."""
    label: str = "label"
    """Column with the right option, as a number (see `first_option`) or as a letter, A for the
    first."""


@task_types.register("choice", ".task:Choice")
@section
class ChoiceTask(Task):
    """Multiple choice: which of several options goes with a context (SWAG, COPA, RACE)."""

    fixed_words: ClassVar[str | None] = None
    """Labels are taken to survive a few changed words."""
    type: Literal["choice"] = "choice"
    """Task type."""
    columns: ChoiceColumns
    """Column names."""
    first_option: Literal[0, 1] = 0
    """Number in the label column that stands for the first option."""
