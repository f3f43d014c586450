"""Multiple choice: which of several options goes with a context.

Context and option go through the model as a pair of texts, a feature for each option. The head
gives each a score, and the softmax over the options of a row is their distribution, as in BERT on
SWAG (Devlin et al. 2019, section 4.4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.features import NO_TARGET, Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.metrics import compute, main_key
from mtlcli.tasks.answers import softmax
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
from mtlcli.tasks.choice import ChoiceTask
from mtlcli.tasks.groups import LEAST, by_example, grouped, of_examples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.choice.answers import OptionAnswers

UNKNOWN = -101
"""Number of the option of a row whose label is none of its options."""
NO_LABEL = (None, "", "-1", "nan")
"""Labels, as text, of a row without a label."""


class Choice(TaskType[ChoiceTask]):
    """A task that chooses one of the options of a row. Rows may have different numbers of options.

    The label is the number of the right option, counted from `first_option`, or its letter. Null,
    an empty text, NaN and -1 mark a row without a label.
    """

    example = ([0, 1, 2], [0, 2, 2])

    @property
    def default_metrics(self) -> list[str]:
        return ["accuracy"]

    @property
    def _context_columns(self) -> list[str]:
        context = self.config.columns.context
        return context if isinstance(context, list) else [context]

    @property
    def _option_columns(self) -> list[str]:
        options = self.config.columns.options
        return options if isinstance(options, list) else [options]

    @property
    def _text_columns(self) -> list[str]:
        """The columns that hold one text for each row."""
        columns, question = self.config.columns, self.config.columns.question
        found = [*self._context_columns, *([] if question is None else [question])]
        return found + (columns.options if isinstance(columns.options, list) else [])

    @property
    def column_contents(self) -> dict[str, str]:
        options = self.config.columns.options
        return {options: "texts"} if isinstance(options, str) else {}

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        question = self.config.columns.question
        return [
            *self._context_columns,
            *([] if question is None else [question]),
            *self._option_columns,
            *([self.config.columns.label] if labelled else []),
        ]

    def texts(self, table: Table) -> list[str]:
        contexts, options = self._texts(table)
        return contexts + [option for row in options for option in row]

    def _texts(self, table: Table) -> tuple[list[str], list[list[str]]]:
        """Return the context and the options of each row, each option behind the question."""
        contexts = [
            " ".join(parts) for parts in zip(*map(table.column, self._context_columns), strict=True)
        ]
        question, options = self.config.columns.question, self.options(table)
        if question is None:
            return contexts, options
        return contexts, [
            [f"{asked} {option}" for option in row]
            for asked, row in zip(table.column(question), options, strict=True)
        ]

    def options(self, table: Table) -> list[list[str]]:
        """Return the options of each row."""
        columns = self.config.columns.options
        if isinstance(columns, str):
            return table.column(columns)
        return [list(row) for row in zip(*map(table.column, columns), strict=True)]

    def has_input(self, table: Table) -> NDArray[np.bool_]:
        found = super().has_input(table)
        columns = self.config.columns.options
        if isinstance(columns, str) and columns in table.rows.column_names:
            found &= [bool(options) for options in table.column(columns)]
        return found

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        return self.targets(table) != NO_TARGET

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = text_problems(table, self._text_columns)
        if isinstance(self.config.columns.options, str):
            problems += self._option_problems(table, self.config.columns.options)
        column = self.config.columns.label
        if problems or column not in table.rows.column_names:
            return problems
        targets = self.targets(table)
        unknown = np.flatnonzero(targets == UNKNOWN)
        missing = np.flatnonzero(targets == NO_TARGET)
        if len(unknown):
            row = int(unknown[0])
            count, first = len(self.options(table)[row]), self.config.first_option
            value = shown(table.rows.column(column)[row].as_py())
            what = f"label {value} is none of the {count} options of the row"
            fix = (
                f"allowed: {first} to {count - 1 + first}, or A to {chr(ord('A') + count - 1)} "
                f"(tasks.{self.name}.first_option={first} is the number of the first)"
            )
            problems.append(counted(table, unknown, what, fix))
        if labelled and len(missing) == len(table):
            what = f"column '{column}' has no label in any of the {len(table):,} rows"
            fix = f"name the column with the labels in tasks.{self.name}.columns.label"
            problems.append(Problem(what, table.origin, fix))
        elif len(missing) and (labelled or len(missing) < len(table)) and not self._skips:
            fix = f"name the right option, or leave the row out: {self._skip}"
            problems.append(
                counted(table, missing, f"column '{column}' has no label: null, empty or -1", fix)
            )
        return problems

    def _option_problems(self, table: Table, column: str) -> list[Problem]:
        """Return the faults of a column of lists of options."""
        kind = table.rows.column(column).type
        if not (is_list(kind) and is_text(kind.value_type)):
            fix = (
                'give each row a list, ["yes", "no"], or name several columns in '
                f"tasks.{self.name}.columns.options"
            )
            return [wrong_type(table, column, "lists of texts are needed", fix)]
        few, blank = short_and_blank(table.column(column), least=2)
        problems = []
        if few:
            what = f"column '{column}' has fewer than two options"
            problems.append(counted(table, few, what, "add options, or leave the row out"))
        if blank:
            what = f"an option in column '{column}' is empty or missing"
            problems.append(counted(table, blank, what, "fill it in, or take it out"))
        return problems

    def targets(self, table: Table) -> NDArray[np.int64]:
        """Return the place of the right option of each row, from 0; NO_TARGET without a label,
        UNKNOWN where the label is none of the options: (rows,)."""
        column = self.config.columns.label
        if column not in table.rows.column_names:
            return np.full(len(table), NO_TARGET)
        sizes = self._sizes(table)
        places = (_place(value, self.config.first_option) for value in table.column(column))
        return np.array(
            [
                place if place == NO_TARGET or 0 <= place < size else UNKNOWN
                for place, size in zip(places, sizes, strict=True)
            ],
            np.int64,
        )

    def _sizes(self, table: Table) -> list[int]:
        """Return the number of options of each row."""
        columns = self.config.columns.options
        if isinstance(columns, list):
            return [len(columns)] * len(table)
        if not is_list(table.rows.column(columns).type):
            return [0] * len(table)
        return [len(options or []) for options in table.column(columns)]

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return a feature for each option; those of a row are an example. columns: `label`, 1 for
        the right option, 0 for the others, NO_TARGET without a label."""
        contexts, options = self._texts(table)
        sizes = np.array([len(row) for row in options], np.int64)
        rows = np.repeat(np.arange(len(table)), sizes)
        features = encoder.encode(
            [contexts[row] for row in rows],
            [option for row in options for option in row],
            self.max_length,
        )
        features.columns["row"] = rows
        places = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        right = self.targets(table)[rows]
        features.columns["label"] = np.where(right == NO_TARGET, NO_TARGET, places == right)
        return grouped(features, sizes)

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        from mtlcli.tasks.heads import PooledHead

        return PooledHead(hidden, 1, dropout, layers=self.head_layers(int(dense)), std=std)

    def library_head(self) -> LibraryHead | str:
        return LibraryHead("MultipleChoice")

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the cross entropy over the options of each example, summed over the labelled
        examples."""
        scores = by_example(outputs["logits"][:, 0].float(), batch, LEAST)
        right = by_example(batch.columns["label"].float(), batch, 0.0).clamp(min=0)
        return -(scores.log_softmax(dim=1) * right).sum()

    def items(self, features: Features, indices: NDArray[np.int64]) -> int:
        return int(np.count_nonzero(features.columns["label"][indices] == 1))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"option": number, "text", "probabilities"} for each row. The number counts from
        `first_option`."""
        logits = outputs["logits"][:, 0]
        require_finite(self.name, logits)
        return self.from_scores(of_examples(logits, features), table)

    def from_scores(self, scores: Sequence[NDArray], table: Table) -> list[Any]:
        """Return the predictions of `decode` from the scores of each row's options."""
        found = []
        for options, of_row in zip(self.options(table), scores, strict=True):
            best = int(of_row.argmax())
            found.append(
                {
                    "option": best + self.config.first_option,
                    "text": options[best],
                    "probabilities": softmax(of_row[None])[0].tolist(),
                }
            )
        return found

    def answers(self) -> OptionAnswers:
        from mtlcli.tasks.choice.answers import OptionAnswers

        return OptionAnswers(self)

    def prompt_texts(self, table: Table, column: str) -> list[str]:
        """Return the texts of a column; of a list of options, each behind a dash."""
        if column != self.config.columns.options:
            return table.column(column)
        return [" ".join(f"- {option}" for option in row) for row in table.column(column)]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        first = self.config.first_option
        return {"predictions": [prediction["option"] - first for prediction in predictions]}

    def references(self, table: Table) -> list[Any] | None:
        """Return the place of the right option of each row, or None when a row has no label."""
        targets = self.targets(table)
        return None if (targets < 0).any() else targets.tolist()

    def gold(self, table: Table) -> list[Any]:
        """Return the number of the right option of each row, or None for a row without a label."""
        first = self.config.first_option
        return [place + first if place >= 0 else None for place in self.targets(table).tolist()]

    def references_of(self, rows: list[dict[str, Any]]) -> list[Any]:
        return [row["gold"] - self.config.first_option for row in rows]

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the score of the place that is right most often."""
        constant: Sequence[int] = [Counter(references).most_common(1)[0][0]] * len(references)
        return compute(metric, constant, references)[main_key(metric)]


def _place(value: Any, first: int) -> int:
    """Return the place of an option, from 0, that a label names; NO_TARGET for none. `first`: the
    number of the first option."""
    text = str(value).strip().lower() if value is not None else None
    if text in NO_LABEL or isinstance(value, float) and value == -1:
        return NO_TARGET
    assert text is not None
    if len(text) == 1 and "a" <= text <= "z":
        return ord(text) - ord("a")
    whole = text.removesuffix(".0") if isinstance(value, float) else text
    return int(whole) - first if whole.isdecimal() and not isinstance(value, bool) else UNKNOWN
