"""The options of relation tasks: the relation between two marked entities of a text. The task
itself is in task.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from annotated_types import Len

from mtlcli.config.section import section
from mtlcli.config.task import task_types
from mtlcli.errors import Problem
from mtlcli.registry import suggest
from mtlcli.tasks.classification import ClassificationTask

ENTITIES = ("entity1", "entity2")
"""What templates of prompts call the two entities (`form=text`)."""
Span = Annotated[list[str], Len(2, 2)]


@section
class RelationColumns:
    """The columns of a relation task."""

    text: str
    """Column with the text, in which <e1>...</e1> and <e2>...</e2> mark the entities; with `first`
    and `second`, column with the list of its words."""
    first: Span | None = None
    """Columns with the numbers (from 0) of the first and last word of the first entity, for example
    [subj_start, subj_end]; null: the text has marks."""
    second: Span | None = None
    """The same of the second entity."""
    label: str = "relation"
    """Column with the relation."""
    text_pair: ClassVar[None] = None
    """There is no second text."""


@task_types.register("relation", ".task:Relation")
@section
class RelationTask(ClassificationTask):
    """Relation extraction: the relation between two marked entities of a text (SemEval, TACRED)."""

    writes: ClassVar[bool] = True
    """The head reads the places of the entities, which inputs of other tasks do not have."""
    not_encoded: ClassVar[tuple[str, ...]] = (*ClassificationTask.not_encoded, "no_relation")
    """Keys that do not affect the features."""
    fixed_words: ClassVar[str | None] = "the entities are places in the text"
    """Why the words of a text cannot be changed without its label."""
    mixes: ClassVar[bool] = False
    """False, because the head reads the states of two tokens."""
    type: Literal["relation"] = "relation"  # type: ignore[assignment]
    """Task type."""
    columns: RelationColumns  # type: ignore[assignment]
    """Column names."""
    no_relation: str | None = None
    """Class that stands for no relation, or another one than those of the data set, which
    `relation_f1_macro` and `relation_f1_micro` leave out; null: there is none."""

    @property
    def text_columns(self) -> list[str]:
        """The column of the text, which loses its marks, and the names of the two entities."""
        return [self.columns.text, *ENTITIES]

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        yield from super().problems(at, length, length_key)
        columns = self.columns
        if (columns.first is None) != (columns.second is None):
            key = "first" if columns.first is None else "second"
            what = "the words of one entity are named and those of the other are not"
            yield Problem(what, f"{at}.columns.{key}", "name the columns of both, or of none")
        if self.labels and self.no_relation is not None and self.no_relation not in self.labels:
            what = f"'{self.no_relation}' is not one of the classes"
            yield Problem(what, f"{at}.no_relation", suggest(self.no_relation, self.labels))
