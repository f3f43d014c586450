"""The options of multiple-choice tasks: which of several texts goes with a context. The task itself
is in task.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen

from mtlcli.config.section import section
from mtlcli.config.task import Task, listed, task_types
from mtlcli.errors import Problem


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
    no_text_form: ClassVar[None] = None
    """None: the options are texts, of which the likelihoods are compared."""
    own_answers: ClassVar[bool] = True
    """True: each row has options of its own."""
    type: Literal["choice"] = "choice"
    """Task type."""
    columns: ChoiceColumns
    """Column names."""
    first_option: Literal[0, 1] = 0
    """Number in the label column that stands for the first option."""

    @property
    def text_columns(self) -> list[str]:
        """The columns of the context and the question, and those of the options; a column with a
        list of options takes its place as a text with one option behind each dash."""
        columns = self.columns
        return [*listed(columns.context), *listed(columns.question), *listed(columns.options)]

    def text_problems(self, at: str) -> Iterator[Problem]:
        yield from self.answer_problems(at, [])
        if self.splits.train in self.splits.validation:
            yield Problem(
                "training on prompts encodes the right options alone, so that the split cannot be "
                "scored as well",
                f"{at}.splits.validation",
                "name another split, or keep rows of train out: splits.hold_out",
            )
