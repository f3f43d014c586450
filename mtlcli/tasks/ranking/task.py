"""Ranking: bring the candidates of a query into order.

Query and candidate go through the model as a pair of texts, which the head gives a score; the
candidates of a query are an example. A query weighs the same in the loss, however many candidates
it has.

ListNet: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach" (the
top-one probabilities). RankNet: Burges et al. 2005, "Learning to Rank using Gradient Descent".
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.data.features import Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem, count_of
from mtlcli.metrics import compute, main_key
from mtlcli.tasks.base import LibraryHead, Outputs, TaskType
from mtlcli.tasks.checks import (
    counted,
    is_list,
    is_text,
    require_finite,
    short_and_blank,
    shown,
    text_problems,
    wrong_type,
)
from mtlcli.tasks.groups import LEAST, by_example, grouped, of_examples
from mtlcli.tasks.ranking import RankingTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder

Relevances = list[float]
"""The relevance of each candidate of a row; nan where one is no number of 0 or more."""


class Ranking(TaskType[RankingTask]):
    """A task that orders the candidates of each query.

    A row holds a query with lists of candidates and of their relevances; or, with a column
    `query_id`, one candidate and its relevance, and the rows with the same id are those of a query.
    Null, and an empty list or text, mark a row without a label.
    """

    item = "query"
    unit = "query"
    example = ([[0.5, 0.1], [0.2, 0.3]], [[1.0, 0.0], [1.0, 0.0]])

    @property
    def default_metrics(self) -> list[str]:
        return ["mrr", "ndcg_10", "map"]

    @property
    def _pairs(self) -> bool:
        """Whether a row holds a single candidate."""
        return self.config.columns.query_id is not None

    @property
    def column_contents(self) -> dict[str, str]:
        return {} if self._pairs else {self.config.columns.candidates: "texts"}

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        columns = self.config.columns
        return [
            columns.query,
            columns.candidates,
            *([] if columns.query_id is None else [columns.query_id]),
            *([columns.label] if labelled else []),
        ]

    def texts(self, table: Table) -> list[str]:
        queries = table.column(self.config.columns.query)
        return queries + [text for row in self._candidates(table) for text in row]

    def _candidates(self, table: Table) -> list[list[str]]:
        """Return the candidates of each row."""
        values = table.column(self.config.columns.candidates)
        return [[value] for value in values] if self._pairs else values

    def _queries(self, table: Table) -> list[Any]:
        """Return for each row what tells its query from others."""
        column = self.config.columns.query_id
        return list(range(len(table))) if column is None else table.column(column)

    def has_input(self, table: Table) -> NDArray[np.bool_]:
        found = super().has_input(table)
        column = self.config.columns.candidates
        if not self._pairs and column in table.rows.column_names:
            found &= [bool(candidates) for candidates in table.column(column)]
        return found

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        return np.array([relevances is not None for relevances in self._relevances(table)], bool)

    def _relevances(self, table: Table) -> list[Relevances | None]:
        """Return the relevances of each row, or None for a row without."""
        column = self.config.columns.label
        if column not in table.rows.column_names:
            return [None] * len(table)
        values = table.column(column)
        if self._pairs:
            values = [None if value is None or value == "" else [value] for value in values]
        return [
            [_relevance(each) for each in value] if isinstance(value, list) and value else None
            for value in values
        ]

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        columns = self.config.columns
        problems = text_problems(
            table, [columns.query, *([columns.candidates] if self._pairs else [])]
        )
        if not self._pairs:
            problems += self._list_problems(table)
        else:
            ids = self._queries(table)
            lost = [row for row, value in enumerate(ids) if value is None or value == ""]
            if lost:
                what = f"column '{columns.query_id}' is empty or missing"
                problems.append(counted(table, lost, what, "name the query of the row"))
        if problems or columns.label not in table.rows.column_names:
            return problems
        return self._label_problems(table, labelled=labelled)

    def _list_problems(self, table: Table) -> list[Problem]:
        """Return the faults of a column of lists of candidates."""
        column = self.config.columns.candidates
        kind = table.rows.column(column).type
        at = f"tasks.{self.name}.columns"
        if not (is_list(kind) and is_text(kind.value_type)):
            fix = (
                f"give each row a list of texts, or name the column that tells queries apart in "
                f"{at}.query_id if a row holds one candidate"
            )
            return [wrong_type(table, column, "lists of texts are needed", fix)]
        none, blank = short_and_blank(table.column(column))
        found = []
        if none:
            what = f"column '{column}' has no candidates"
            found.append(counted(table, none, what, "add some, or leave the row out"))
        if blank:
            what = f"a candidate in column '{column}' is empty or missing"
            found.append(counted(table, blank, what, "fill it in, or take it out"))
        return found

    def _label_problems(self, table: Table, *, labelled: bool) -> list[Problem]:
        column = self.config.columns.label
        kind = table.rows.column(column).type
        if not self._pairs and not (is_list(kind) or pa.types.is_null(kind)):
            fix = f"give each row a list of numbers, or correct tasks.{self.name}.columns.label"
            return [wrong_type(table, column, "lists of relevances are needed", fix)]
        rows, counts = self._relevances(table), list(map(len, self._candidates(table)))
        missing = [row for row, each in enumerate(rows) if each is None]
        odd = [row for row, each in enumerate(rows) if each and any(map(math.isnan, each))]
        uneven = [row for row, each in enumerate(rows) if each and len(each) != counts[row]]
        problems = []
        if odd:
            value = shown(table.rows.column(column)[odd[0]].as_py())
            what = f"relevance {value} is no number of 0 or more"
            problems.append(counted(table, odd, what, "write 0 for not relevant, 1 or more if so"))
        if uneven:
            row = uneven[0]
            what = (
                f"there are {count_of(len(rows[row] or []), 'relevance')} for "
                f"{count_of(counts[row], 'candidate')}"
            )
            problems.append(counted(table, uneven, what, "give each candidate exactly one"))
        if labelled and len(missing) == len(table):
            what = f"column '{column}' has no relevance in any of the {len(table):,} rows"
            fix = f"name the column with the relevances in tasks.{self.name}.columns.label"
            problems.append(Problem(what, table.origin, fix))
        elif missing and (labelled or len(missing) < len(table)) and not self._skips:
            fix = f"fill it in, or leave the row out: {self._skip}"
            problems.append(counted(table, missing, f"column '{column}' has no relevance", fix))
        return problems

    def targets(self, table: Table) -> NDArray[np.int64]:
        """Return a checksum of the relevances of each row: (rows,)."""
        rows = (zlib.crc32(repr(row).encode()) for row in self._relevances(table))
        return np.fromiter(rows, np.int64, len(table))

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return a feature for each candidate; those of a query are an example. columns:
        `relevance`, nan without a label; `queries`, 1 at the first feature of a query with labels,
        else 0."""
        queries, candidates = table.column(self.config.columns.query), self._candidates(table)
        numbers: dict[Any, int] = {}
        query_of = np.array(
            [numbers.setdefault(query, len(numbers)) for query in self._queries(table)], np.int64
        )
        # The rows of a query, wherever they stand in the table, come one after another.
        order = np.argsort(query_of, kind="stable")
        sizes = np.array([len(candidates[row]) for row in order], np.int64)
        rows = np.repeat(order, sizes)
        features = encoder.encode(
            [queries[row] for row in rows],
            [text for row in order for text in candidates[row]],
            self.max_length,
        )
        relevances = self._relevances(table)
        features.columns["row"] = rows
        features.columns["relevance"] = np.array(
            [
                value
                for row in order
                for value in (relevances[row] or [math.nan] * len(candidates[row]))
            ],
            np.float32,
        )
        grouped(features, np.bincount(query_of[rows], minlength=len(numbers)))
        assert features.groups is not None
        known = ~np.isnan(features.columns["relevance"])
        features.columns["queries"] = np.zeros(len(rows), np.int64)
        if len(rows):
            features.columns["queries"][features.groups[:-1]] = np.logical_and.reduceat(
                known, features.groups[:-1]
            )
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        from mtlcli.tasks.heads import PooledHead

        return PooledHead(hidden, 1, dropout, layers=self.head_layers(int(dense)), std=std)

    def library_head(self) -> LibraryHead | str:
        limits = (
            "It gives the score of one text for one query; the order is for the caller to make.",
        )
        return LibraryHead("SequenceClassification", ("score",), "regression", limits)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the ListNet or RankNet loss of each query, summed over the queries with labels.
        RankNet's is the mean over the pairs of a query."""
        from torch.nn.functional import softplus

        scores = outputs["logits"][:, 0].float()
        relevance = batch.columns["relevance"].float()
        known = by_example(batch.columns["queries"].float(), batch, 0.0)[:, 0]
        if self.config.loss == "listnet":
            target = by_example(relevance.nan_to_num(), batch, LEAST).softmax(dim=1)
            losses = -(by_example(scores, batch, LEAST).log_softmax(dim=1) * target).sum(dim=1)
        else:
            # What stands at the place of no candidate is nan, which is in no pair.
            of_query = by_example(relevance, batch, math.nan)
            better = of_query[:, :, None] > of_query[:, None, :]
            dense = by_example(scores, batch, 0.0)
            pairs = softplus(dense[:, None, :] - dense[:, :, None]) * better
            losses = pairs.sum(dim=(1, 2)) / better.sum(dim=(1, 2)).clamp(min=1)
        return (losses * known).sum()

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(features.columns["queries"][indices].sum())

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"scores": [...], "order": places from the best} for each row; with `query_id`,
        {"query", "score"}."""
        scores = outputs["logits"][:, 0].astype(np.float64)
        require_finite(self.name, scores)
        if not self._pairs:
            return [
                {"scores": row.tolist(), "order": np.argsort(-row, kind="stable").tolist()}
                for row in of_examples(scores, features)
            ]
        of_row = np.empty(len(table))
        of_row[features.columns["row"]] = scores
        return [
            {"query": query, "score": score}
            for query, score in zip(self._queries(table), of_row.tolist(), strict=True)
        ]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        """Return the scores of each query; with `query_id`, (query, score) for each row."""
        return {
            "predictions": [
                (each["query"], each["score"]) if self._pairs else each["scores"]
                for each in predictions
            ]
        }

    def references(self, table: Table) -> list[Any] | None:
        """Return the relevances of each row (with `query_id`, (query, relevance)), or None when a
        row has none."""
        gold = self._relevances(table)
        if None in gold:
            return None
        if not self._pairs:
            return gold
        return [
            (query, row[0]) for query, row in zip(self._queries(table), gold, strict=True) if row
        ]

    def gold(self, table: Table) -> list[Any]:
        """Return the relevances of each row, or None for a row without."""
        rows = [
            row if row and not any(map(math.isnan, row)) else None
            for row in self._relevances(table)
        ]
        return [row[0] if row else None for row in rows] if self._pairs else rows

    def references_of(self, rows: list[dict[str, Any]]) -> list[Any]:
        if not self._pairs:
            return [row["gold"] for row in rows]
        return [(row["query"], row["gold"]) for row in rows]

    def clusters(self, table: Table) -> list[Any] | None:
        """Return the query of each row; None where a row holds a whole query."""
        return self._queries(table) if self._pairs else None

    def describe(self, gold: list[Any]) -> str:
        """Return the number of candidates with each relevance."""
        return super().describe(
            [f"{each:g}" for row in gold for each in (row if isinstance(row, list) else [row])]
        )

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the score of giving all candidates the same score: that of the order in which
        they stand in the table."""
        constant = [(row[0], 0.0) if self._pairs else [0.0] * len(row) for row in references]
        return compute(metric, constant, references)[main_key(metric)]


def _relevance(value: Any) -> float:
    """Return a relevance as a number; nan where it is no number of 0 or more."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if number >= 0 and math.isfinite(number) else math.nan
