"""The options of regression tasks: one real number for a text or a pair of texts. The task itself
is in task.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MinLen

from mtlcli.config.section import section
from mtlcli.config.task import Task, TextColumns, task_types
from mtlcli.errors import Problem


@task_types.register("regression", ".task:Regression")
@section
class RegressionTask(Task):
    """Regression: one real number for a text or a pair of texts."""

    fixed_words: ClassVar[str | None] = None
    """Labels are taken to survive a few changed words."""
    mixes: ClassVar[bool] = True
    """The head reads the pooled vector alone."""
    compares: ClassVar[bool] = True
    """There is one output for each input."""
    no_text_form: ClassVar[None] = None
    """None: labels and answers have texts."""
    type: Literal["regression"] = "regression"
    """Task type."""
    columns: TextColumns
    """Column names."""
    range: Annotated[list[Annotated[float, Ge(-1e30), Le(1e30)]], MinLen(2)] | None = None
    """Lowest and highest valid score; rows outside are refused. Null: any finite number."""
    decimal_comma: bool = False
    """Whether text in the label column has a comma for the decimal point, as in `3,5`."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        if self.range and not (len(self.range) == 2 and self.range[0] < self.range[1]):
            yield Problem(
                f"must be two numbers, the lowest and the highest score, found {self.range}",
                f"{at}.range",
                "for example [0, 5]",
            )

    def text_problems(self, at: str) -> Iterator[Problem]:
        yield from self.answer_problems(at, [])
        if self.range is None:
            yield Problem(
                "must be given with form=text, which writes scores in 25 steps from the lowest to "
                "the highest",
                f"{at}.range",
                "for example [0, 5]",
            )

    @property
    def text_columns(self) -> list[str]:
        return self.columns.inputs

    @property
    def allowed(self) -> list[Any]:
        return self.range or []
