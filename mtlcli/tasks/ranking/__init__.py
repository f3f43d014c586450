"""The options of ranking tasks: bring the candidates of a query into order. The task itself is in
task.py. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from mtlcli.config.section import section
from mtlcli.config.task import Task, task_types


@section
class RankingColumns:
    """The columns of a ranking task."""

    query: str
    """Column with the query."""
    candidates: str
    """Column with the list of a query's candidates; with `query_id`, with one candidate."""
    label: str = "label"
    """Column with the relevance of each candidate, 0 or more: a list as long as that of the
    candidates; with `query_id`, one number."""
    query_id: str | None = None
    """Column with the same value in all rows of a query, for tables with a row for each pair of
    query and candidate. Null: a row holds a query and all of its candidates."""


@task_types.register("ranking", ".task:Ranking")
@section
class RankingTask(Task):
    """Ranking: bring the candidates of a query into order (MS MARCO)."""

    only_trained: ClassVar[tuple[str, ...]] = (*Task.only_trained, "loss")
    """Keys that have no effect on a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (*Task.not_encoded, "loss")
    """Keys that do not affect the features."""
    fixed_words: ClassVar[str | None] = None
    """Labels are taken to survive a few changed words."""
    no_text_form: ClassVar[str] = "the order of many candidates is no answer of one text"
    """A label is a list of relevances, as long as that of the candidates."""
    type: Literal["ranking"] = "ranking"
    """Task type."""
    columns: RankingColumns
    """Column names."""
    loss: Literal["listnet", "ranknet"] = "listnet"
    """`listnet`: cross entropy between the softmax of the relevances and that of the scores (Cao et
    al. 2007). `ranknet`: the logistic loss of the difference of scores, over the pairs of a query
    with different relevance (Burges et al. 2005)."""

    @property
    def together(self) -> str | None:
        return self.columns.query_id
