"""Regression: one real number for a text or a pair of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtlcli.data.features import Features
from mtlcli.data.table import Table, as_numpy
from mtlcli.errors import Problem
from mtlcli.tasks.base import LibraryHead, Outputs
from mtlcli.tasks.checks import (
    counted,
    is_text,
    require_finite,
    shown,
    text_problems,
    wrong_type,
)
from mtlcli.tasks.regression import RegressionTask
from mtlcli.tasks.texts import TextTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.regression.answers import ScoreAnswers

LARGEST = 1e15
"""The largest absolute score that is accepted. Training squares errors in fp32, which has 7 digits:
beside a larger score, the errors of all other rows are lost to rounding, and from 1e19 on the
square is infinite for every row of the task, since predictions start at the mean."""
FAR = 1e4
"""A score is doubted if its distance from the median is more than this many times the width of the
middle half of the scores."""


COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+\s*", re.ASCII)
NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
"""The form of a number in a text; `1_000`, `1,5` and `nan` do not have it."""


class Regression(TextTask[RegressionTask]):
    """A task with one real number as its label, given as a number or as text in the form of a
    number.

    A split has no scores if its label column is null, NaN or, as on the hub, -1 in all rows.
    """

    loss_kind = "regression"
    example = ([0.5, 1.0, 2.0], [0.0, 1.0, 3.0])
    _mean = 0.0

    @property
    def default_metrics(self) -> list[str]:
        return ["pearson", "spearman"]

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        column = self.config.columns.label
        if column not in table.rows.column_names or not _holds_scores(
            table.rows.column(column).type
        ):
            return np.ones(len(table), bool)
        values = table.column(column)
        return np.array(
            [
                not (
                    value is None or value != value or str(value).strip().casefold() in ("", "nan")
                )
                for value in values
            ],
            bool,
        )

    def prepare(self, train: Table | None, others: Sequence[Table] = ()) -> None:
        """Compute the mean score of the train split, at which predictions start."""
        if train is not None and _holds_scores(train.rows.column(self.config.columns.label).type):
            scores = self._scores(train)
            known = scores[np.isfinite(scores)]
            self._mean = float(known.mean()) if len(known) else 0.0

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = text_problems(table, self.input_columns)
        if self.config.columns.label in table.rows.column_names:
            problems += self._score_problems(table, labelled=labelled)
        return problems

    def _score_problems(self, table: Table, *, labelled: bool) -> list[Problem]:
        column = self.config.columns.label
        values = table.rows.column(column)
        fix = (
            "write the scores as numbers, or name another column in "
            f"tasks.{self.name}.columns.label"
        )
        if (
            is_text(values.type)
            and not self.config.decimal_comma
            and any(COMMA.fullmatch(value) for value in values.to_pylist() if value)
        ):
            fix = f"if the comma stands for the decimal point: tasks.{self.name}.decimal_comma=true"
        if not _holds_scores(values.type):
            return [wrong_type(table, column, "numbers are needed", fix)]
        words = (
            [
                row
                for row, value in enumerate(values.to_pylist())
                if not _is_score(self._pointed(value))
            ]
            if is_text(values.type)
            else []
        )
        if 0 < len(words) == len(table) - values.null_count:
            return [wrong_type(table, column, "numbers are needed", fix, words[0])]
        problems = []
        if words:
            problems.append(
                counted(
                    table,
                    words,
                    f"score {shown(values[words[0]].as_py())} is not a finite number",
                    fix,
                )
            )
        scores = self._scores(table)
        low, high = self.config.range or (-np.inf, np.inf)
        if len(infinite := np.flatnonzero(np.isinf(scores))):
            what = f"score {scores[infinite[0]]} is not a finite number"
            problems.append(counted(table, infinite, what, "correct it, or leave the row out"))
        if len(
            huge := np.flatnonzero(
                (np.abs(scores) > LARGEST)
                & (scores >= low)
                & (scores <= high)
                & np.isfinite(scores)
            )
        ):
            what = (
                f"score {scores[huge[0]]:g} is too large to be trained on:"
                " from step 0 on its squared error would leave no digits for the other rows"
            )
            problems.append(
                counted(
                    table,
                    huge,
                    what,
                    "correct it, leave the row out, or write all scores in a larger unit",
                )
            )
        if len(outside := np.flatnonzero(np.isfinite(scores) & ((scores < low) | (scores > high)))):
            what = f"score {scores[outside[0]]:g} is outside its range"
            problems.append(
                counted(
                    table, outside, what, f"allowed: {low:g} to {high:g} (tasks.{self.name}.range)"
                )
            )
        missing = np.setdiff1d(np.flatnonzero(np.isnan(scores)), words)
        if labelled and len(missing) == len(table):
            fix = (
                f"name the column with the scores in tasks.{self.name}.columns.label, or fill it in"
            )
            problems.append(
                Problem(
                    f"column '{column}' has no score in any of the {len(table):,} rows: null, NaN "
                    "or -1",
                    table.origin,
                    fix,
                )
            )
        elif labelled and len(missing) and not self._skips:
            problems.append(
                counted(
                    table,
                    missing,
                    f"column '{column}' has no score: null or NaN",
                    f"fill it in, or leave the row out: {self._skip}",
                )
            )
        elif 0 < len(missing) < len(table) and not self._skips:
            what = (
                f"column '{column}' has no score: null or NaN, while other rows of the split "
                "have one"
            )
            problems.append(
                counted(
                    table,
                    missing,
                    what,
                    f"score all rows of a split, or none, or leave such rows out: {self._skip}",
                )
            )
        return problems

    def doubts(self, train: Table) -> list[Problem]:
        """Return a warning if every row has the same score, or if some scores are far from all
        others."""
        scores = self._scores(train)
        if len(scores) < 2 or (scores != scores[0]).any():
            return self._outliers(train, scores)
        what = (
            f"every row of split '{train.split}' has the score {scores[0]:g}: there is nothing "
            "to learn"
        )
        return [
            Problem(
                what,
                train.origin,
                f"name another column in tasks.{self.name}.columns.label, or leave the task out",
            )
        ]

    def _outliers(self, train: Table, scores: NDArray[np.float64]) -> list[Problem]:
        """Return a warning about scores so far from the others that they alone determine the
        squared error."""
        known = scores[np.isfinite(scores)]
        if not len(known):
            return []
        low, median, high = np.quantile(known, [0.25, 0.5, 0.75])
        rows = np.flatnonzero(np.abs(scores - median) > FAR * (high - low or max(abs(median), 1.0)))
        if not len(rows):
            return []
        what = (
            f"score {scores[rows[0]]:g}, while half of the rows lie between {low:g} and "
            f"{high:g}: such rows would dominate the loss"
        )
        return [
            counted(
                train,
                rows,
                what,
                f"correct it, or give the allowed scores in tasks.{self.name}.range",
            )
        ]

    def targets(self, table: Table) -> NDArray:
        """Return the score of each row, NaN where there is none: (rows,)."""
        return self._scores(table)

    def _scores(self, table: Table) -> NDArray[np.float64]:
        """Return the score of each row, NaN where there is none: (rows,)."""
        column = self.config.columns.label
        if column not in table.rows.column_names:
            return np.full(len(table), np.nan)
        values = table.rows.column(column)
        if is_text(values.type):
            numbers = [
                float(number)
                if (number := self._pointed(value)) and NUMBER.fullmatch(number)
                else None
                for value in values.to_pylist()
            ]
            values = pa.chunked_array([pa.array(numbers, pa.float64())])
        values = values.cast(pa.float64())
        scores = np.full(len(table), np.nan)
        scores[as_numpy(pc.indices_nonzero(values.is_valid()))] = as_numpy(values.drop_null())
        return np.full(len(table), np.nan) if (np.isnan(scores) | (scores == -1)).all() else scores

    def _pointed(self, value: str | None) -> str | None:
        """Return a score with a decimal point. Where a comma is written for it, a point could only
        stand between thousands, and such a text is left as no number."""
        if not value or not self.config.decimal_comma:
            return value
        return value.replace(",", ".") if "." not in value else value.replace(".", " ")

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        features = self.encode_texts(table, encoder)
        features.columns["score"] = self._scores(table)[features.columns["row"]].astype(np.float32)
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """Return a head whose output starts at the mean score of the train split. Otherwise the
        squared error of the mean itself would dominate the first steps of all tasks that share the
        backbone."""
        from torch import nn

        from mtlcli.tasks.heads import PooledHead

        head = PooledHead(hidden, 1, dropout, layers=self.head_layers(int(dense)), std=std)
        nn.init.constant_(head.output.bias, self._mean)
        return head

    def library_head(self) -> LibraryHead | str:
        return LibraryHead("SequenceClassification", ("score",), "regression")

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the summed squared error."""
        score = batch.columns["score"].float()
        labelled = ~score.isnan()
        # Missing scores are replaced before the difference: a NaN would reach the gradient even
        # with weight zero.
        difference = (outputs["logits"].float().squeeze(-1) - score.nan_to_num()) * labelled
        return difference.square().sum()

    def mixed(self, batch: Batch, order: Tensor, share: float) -> list[tuple[float, Batch]]:
        """Return the batch with mixed scores: the squared error is not linear in them."""
        score = batch.columns["score"].float()
        score = share * score + (1 - share) * score[order]
        return [(1.0, replace(batch, columns=batch.columns | {"score": score}))]

    def divergence(self, outputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        return (outputs["logits"].float() - others["logits"].float()).square().sum()

    def distance(self, outputs: dict[str, Tensor], teacher: Tensor, temperature: float) -> Tensor:
        return (outputs["logits"].float() - teacher.float()).square().sum()

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(np.count_nonzero(~np.isnan(features.columns["score"][indices])))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"score": number} for each row, not clipped to the range."""
        scores = np.empty(len(table))
        scores[features.columns["row"]] = outputs["logits"][:, 0]
        require_finite(self.name, scores)
        return [{"score": score} for score in scores.tolist()]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        return {"predictions": [prediction["score"] for prediction in predictions]}

    def references(self, table: Table) -> list[Any] | None:
        """Return the score of each row, or None when a row has none."""
        scores = self._scores(table)
        return None if np.isnan(scores).any() else scores.tolist()

    def gold(self, table: Table) -> list[Any]:
        """Return the score of each row, or None for a row without a score."""
        return [None if score != score else score for score in self._scores(table).tolist()]

    def describe(self, gold: list[Any]) -> str:
        """Return the range and the mean of the scores."""
        return f"{min(gold):g} to {max(gold):g}, mean {sum(gold) / len(gold):.3g}"

    def answers(self) -> ScoreAnswers:
        from mtlcli.tasks.regression.answers import ScoreAnswers

        return ScoreAnswers(self)

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return 0, since a constant correlates with nothing."""
        return 0.0


def _is_score(text: str | None) -> bool:
    """Return whether a text is a number, or marks a row without a score."""
    return not text or text.strip().casefold() in ("", "nan") or NUMBER.fullmatch(text) is not None


def _holds_scores(kind: pa.DataType) -> bool:
    """Return whether a column type holds numbers, only nulls, or text, which may hold numbers."""
    numeric = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    return bool(numeric or pa.types.is_null(kind) or is_text(kind))
