"""The options of span tasks, that is, extractive question answering. The task itself is in task.py.
Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from mtlcli.config.section import section
from mtlcli.config.task import Task, task_types
from mtlcli.errors import Problem

SPECIAL_TOKENS = 4
"""The most special tokens that a tokenizer puts around and between two texts."""


@section
class SpanColumns:
    """The columns of a task of extractive question answering, as in SQuAD."""

    id: str = "id"
    """Column with the question's unique id: text, a number, or an object of such parts."""
    question: str = "question"
    """Column with the question."""
    context: str = "context"
    """Column with the text that holds the answer."""
    answers: str = "answers"
    """Column with {text: [...], answer_start: [...]}, or with a list of texts alone, which then
    stand where the context first has them; empty lists mean that there is no answer."""


@task_types.register("span", ".task:Span")
@section
class SpanTask(Task):
    """Extractive question answering: the answer is a span of the context (SQuAD 1.1 and 2.0)."""

    no_text_form: ClassVar[None] = None
    """None: labels and answers have texts."""
    generated: ClassVar[bool] = True
    """True: any text can be an answer."""
    not_encoded: ClassVar[tuple[str, ...]] = (
        *Task.not_encoded,
        *("max_answer_length", "n_best", "no_answer_threshold"),
    )
    """Keys that do not affect the features."""
    fixed_words: ClassVar[str | None] = "the answer is a place in the text"
    """Why the words of a text cannot be changed without its label."""
    type: Literal["span"] = "span"
    """Task type."""
    columns: SpanColumns = field(default_factory=SpanColumns)
    """Column names."""
    max_length: Annotated[int, Ge(8), Le(1_000_000)] | None = 384
    """Longest window in tokens, including the question and special tokens; null:
    `data.max_length`."""
    no_answer: bool = False
    """Whether questions may have no answer (SQuAD 2.0)."""
    stride: Annotated[int, Ge(0)] = 128
    """Number of tokens that two neighbouring windows over a long context share."""
    max_question_length: Annotated[int, Ge(1)] = 64
    """Longest question in tokens; longer ones are truncated and counted."""
    max_answer_length: Annotated[int, Ge(1)] = 30
    """Longest predicted answer in tokens."""
    n_best: Annotated[int, Ge(1)] = 20
    """Number of best spans that a prediction lists."""
    no_answer_threshold: float | Literal["auto"] = 0.0
    """Predict no answer if (score of no answer - score of the best span) is above this. `auto`: at
    each evaluation, the threshold with the best F1 on the rows of `splits.calibration`."""

    @property
    def calibrates(self) -> bool:
        automatic = self.no_answer_threshold == "auto"
        return self.form != "text" and self.no_answer and automatic

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        if self.calibrates and self.splits.calibration is None:
            yield Problem(
                "no rows are kept to choose the threshold on",
                f"{at}.no_answer_threshold",
                f"type {at}.splits.calibration.fraction=0.05, or give a number",
            )
        if (
            self.form != "text"
            and length - self.max_question_length - SPECIAL_TOKENS <= self.stride
        ):
            yield Problem(
                f"{length_key}={length} leaves no new context in a window: "
                f"{self.max_question_length} tokens are for the question and {self.stride} are "
                "shared with the next window",
                f"{at}.stride",
                f"raise {at}.max_length, or lower {at}.stride or {at}.max_question_length",
            )

    def text_problems(self, at: str) -> Iterator[Problem]:
        yield from self.answer_problems(at, [])

    @property
    def text_columns(self) -> list[str]:
        return [self.columns.question, self.columns.context]

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        if self.form == "text":
            for key in ("stride", "max_question_length", *self.not_encoded[-3:]):
                yield f"{at}.{key}", "answers are generated (form=text)", "leave it out"
        elif not self.no_answer:
            yield (
                f"{at}.no_answer_threshold",
                "every question has an answer (no_answer=false)",
                f"leave it out, or type {at}.no_answer=true",
            )
