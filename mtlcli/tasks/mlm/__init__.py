"""The options of masked language modelling. The task itself is in task.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.task import Task, TextColumn, listed, task_types
from mtlcli.errors import Problem


@section
class MlmColumns:
    """The columns of a task of masked language modelling, which needs no labels."""

    text: TextColumn = "text"
    """Column with the text; or several, whose texts are joined by a space."""
    text_pair: TextColumn | None = None
    """Column or columns with a second text; null for single texts."""

    @property
    def inputs(self) -> list[str]:
        """The columns that hold the text, or the pair."""
        return [*listed(self.text), *listed(self.text_pair)]


@task_types.register("mlm", ".task:Mlm")
@section
class MlmTask(Task):
    """Masked language modelling: find the tokens of a text that are hidden (Devlin et al. 2019)."""

    not_encoded: ClassVar[tuple[str, ...]] = (*Task.not_encoded, "rate", "whole_words")
    """Keys that do not affect the features."""
    needs_both_sides: ClassVar[bool] = True
    """What follows a hidden token says as much about it as what precedes it."""
    writes: ClassVar[bool] = True
    """The head reads which tokens are hidden, which inputs of other tasks do not have."""
    fixed_words: ClassVar[str | None] = "it hides words itself"
    """Why the words of a text cannot be changed without its label."""
    no_text_form: ClassVar[str] = "it asks for hidden tokens of a text, and has no question"
    """A language model that reads from left to right never sees what follows a hidden token."""
    type: Literal["mlm"] = "mlm"
    """Task type."""
    columns: MlmColumns
    """Column names."""
    rate: Annotated[float, Gt(0), Le(1)] = 0.15
    """Share of the tokens of each text that are to be found, one at least. Of these 80% are
    replaced by the mask token, 10% by a random token, and 10% stay as they are."""
    whole_words: bool = False
    """Whether all tokens of a word are hidden or none (whole word masking, by the authors of BERT).
    Words are drawn until `rate` is reached; a word with more tokens than are left is passed over,
    unless it is the first. The loss is divided by the number of tokens that `rate` asks for."""
    pieces: bool = False
    """Whether a text that is too long becomes several inputs, one after another, which together
    have all of its tokens; otherwise its end is cut off."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        if self.pieces and self.columns.text_pair is not None:
            yield Problem(
                "only single texts can be cut into pieces, and the task reads pairs of texts",
                f"{at}.pieces",
                f"leave it out, or name all columns in {at}.columns.text",
            )

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        for key, what in (("dropout", "no dropout"), ("head_layers", "always one dense layer")):
            yield f"{at}.{key}", f"the head of a task of type mlm has {what}", "leave it out"
