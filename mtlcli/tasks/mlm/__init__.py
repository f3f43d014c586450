"""The options of masked language modelling. The task itself is in task.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.config.section import section
from mtlcli.config.task import Task, TextColumn, listed, task_types


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

    not_encoded: ClassVar[tuple[str, ...]] = (*Task.not_encoded, "rate")
    """Keys that do not affect the features."""
    writes: ClassVar[bool] = True
    """The head reads which tokens are hidden, which inputs of other tasks do not have."""
    type: Literal["mlm"] = "mlm"
    """Task type."""
    columns: MlmColumns
    """Column names."""
    rate: Annotated[float, Gt(0), Le(1)] = 0.15
    """Share of the tokens of each text that are to be found, one at least. Of these 80% are
    replaced by the mask token, 10% by a random token, and 10% stay as they are."""

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        for key, what in (("dropout", "no dropout"), ("head_layers", "always one dense layer")):
            yield f"{at}.{key}", f"the head of a task of type mlm has {what}", "leave it out"
