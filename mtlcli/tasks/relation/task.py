"""Relation extraction: the relation between two marked entities of a text.

Markers stand around the entities, and the classifier reads the states of the two markers that stand
before them: "entity markers, entity start" of Baldini Soares et al. 2019, "Matching the Blanks:
Distributional Similarity for Relation Learning".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.data.features import Features
from mtlcli.data.table import Table
from mtlcli.data.tokenizer import RESERVED
from mtlcli.errors import Problem
from mtlcli.metrics import compute, main_key
from mtlcli.tasks.base import Encoded, LibraryHead
from mtlcli.tasks.checks import counted, is_list, is_text, text_problems, wrong_type
from mtlcli.tasks.classification.task import Classification
from mtlcli.tasks.relation import ENTITIES, RelationTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder

MARK = re.compile(r"\s*<(/?)e([12])>\s*")


class Marked(NamedTuple):
    """A text without its marks."""

    text: str
    """The text."""
    entities: tuple[tuple[int, int], tuple[int, int]]
    """The characters of the first and of the second entity: begin, end (exclusive)."""


class Relation(Classification):
    """A task with one label, out of a fixed set, for a text with two marked entities.

    The entities are marked in the text, <e1>...</e1> and <e2>...</e2>, or two pairs of columns give
    the numbers of their first and last words in a list of words. Labels are those of a
    classification.
    """

    config: RelationTask

    @property
    def default_metrics(self) -> list[str]:
        return ["relation_f1_micro", "accuracy"]

    @property
    def reads_tokens(self) -> bool:
        return True

    @property
    def _spans(self) -> list[str]:
        """The columns with the places of the entities, if the text has no marks."""
        columns = self.config.columns
        return [*(columns.first or []), *(columns.second or [])]

    @property
    def input_columns(self) -> list[str]:
        return [self.config.columns.text, *self._spans]

    @property
    def column_contents(self) -> dict[str, str]:
        if not self._spans:
            return {}
        return {self.config.columns.text: "words"} | dict.fromkeys(self._spans, "number")

    def texts(self, table: Table) -> list[str]:
        """Return the text of each row, and the markers, so that a tokenizer trained on the texts
        knows them."""
        whole = [marked.text for marked in self._marked(table) if marked is not None]
        return [*whole, " ".join(RESERVED)]

    def has_input(self, table: Table) -> NDArray[np.bool_]:
        if not self._spans:
            return super().has_input(table)
        return np.array([bool(words) for words in table.column(self.config.columns.text)], bool)

    def _marked(self, table: Table) -> list[Marked | None]:
        """Return the text and entities of each row, None where they are not sound."""
        rows = table.column(self.config.columns.text)
        if not self._spans:
            return [_of_text(text or "") for text in rows]
        places = zip(*map(table.column, self._spans), strict=True)
        return [_of_words(words or [], at) for words, at in zip(rows, places, strict=True)]

    def input_problems(self, table: Table) -> list[Problem]:
        column = self.config.columns.text
        if self._spans:
            kind = table.rows.column(column).type
            if not (is_list(kind) and is_text(kind.value_type)):
                fix = f"give each row a list of words, or take tasks.{self.name}.columns.first out"
                return [wrong_type(table, column, "lists of words are needed", fix)]
            for name in self._spans:
                if not pa.types.is_integer(table.rows.column(name).type):
                    fix = f"correct tasks.{self.name}.columns.first and .second"
                    return [wrong_type(table, name, "numbers of words are needed", fix)]
        elif problems := text_problems(table, [column]):
            return problems
        bad = [row for row, marked in enumerate(self._marked(table)) if marked is None]
        if not bad:
            return []
        what, fix = (
            (
                "the entities are no words of the row, or share a word: "
                + ", ".join(str(table.rows.column(name)[bad[0]].as_py()) for name in self._spans),
                f"number the words from 0, the last one included ({', '.join(self._spans)})",
            )
            if self._spans
            else (
                f"column '{column}' does not mark two entities",
                "write <e1>...</e1> and <e2>...</e2> around one entity each",
            )
        )
        return [counted(table, bad, what, fix)]

    def prompt_texts(self, table: Table, column: str) -> list[str]:
        """Return the text without its marks, or one of the entities as it stands there."""
        marked = [each for each in self._marked(table) if each is not None]
        if column == self.config.columns.text:
            return [each.text for each in marked]
        number = ENTITIES.index(column)
        return [each.text[slice(*each.entities[number])] for each in marked]

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return a feature for each row. columns: `label`; `first` and `second`, the token
        positions of the markers before the entities."""
        marked = [each for each in self._marked(table) if each is not None]
        assert len(marked) == len(table), "the check has refused other rows"
        features = encoder.marked(
            [each.text for each in marked], [each.entities for each in marked], self.max_length
        )
        features.columns["label"] = self._ids(table)[features.columns["row"]]
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """Return a head with a linear layer unless `head_layers` is set. `dense` has no effect,
        since token states pass no pooling."""
        from mtlcli.tasks.heads import EntityHead

        return EntityHead(hidden, len(self.labels), dropout, layers=self.head_layers(0), std=std)

    def library_head(self) -> LibraryHead | str:
        return (
            "its head reads the states of the two marked entities, as no model of the transformers "
            "library does"
        )

    def outputs(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return `logits`: (batch, classes)."""
        found: dict[str, Tensor] = head(encoded, batch.columns["first"], batch.columns["second"])
        return found

    def _options(self, metric: str) -> dict[str, Any]:
        if metric.startswith("relation_"):
            return {"names": self.labels, "none": self.config.no_relation}
        return super()._options(metric)

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the best score of a constant prediction."""
        options = self._options(metric) | rows
        return max(
            compute(metric, [number] * len(references), references, **options)[main_key(metric)]
            for number in sorted(set(references))
        )


def _of_text(text: str) -> Marked | None:
    """Return a text without its marks, None unless it marks both entities once."""
    parts: list[str] = []
    begins: dict[str, int] = {}
    ends: dict[str, int] = {}
    last = length = 0
    for mark in MARK.finditer(text):
        closes, number = mark[1], mark[2]
        part = text[last : mark.start()]
        # White space on either side of a mark becomes one space outside of the entity.
        outside = mark[0][: mark[0].index("<")] or mark[0][mark[0].index(">") + 1 :]
        if closes:
            part = part + (" " if outside else "")
            ends.setdefault(number, length + len(part) - bool(outside))
        else:
            part = part + (" " if outside else "")
            begins.setdefault(number, length + len(part))
        parts.append(part)
        length += len(part)
        last = mark.end()
    whole = "".join(parts) + text[last:]
    marks = [mark[1] + mark[2] for mark in MARK.finditer(text)]
    if sorted(marks) != ["/1", "/2", "1", "2"] or marks[0][0] == "/":
        return None
    if [mark[-1] for mark in marks] not in (["1", "1", "2", "2"], ["2", "2", "1", "1"]):
        return None
    first, second = ((begins[number], ends[number]) for number in "12")
    if first[0] >= first[1] or second[0] >= second[1]:
        return None
    return Marked(whole, (first, second))


def _of_words(words: list[str], places: tuple[int | None, ...]) -> Marked | None:
    """Return the text of a list of words, and the characters of two ranges of words; None unless
    the ranges lie in the words and share none."""
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    spans = []
    for first, last in (places[:2], places[2:]):
        if first is None or last is None or not 0 <= first <= last < len(words):
            return None
        spans.append((int(starts[first]), int(starts[last + 1]) - 1))
    one, other = spans
    if one[0] < other[1] and other[0] < one[1]:
        return None
    return Marked(" ".join(words), (one, other))
