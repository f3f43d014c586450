"""Tagging: one tag for each word of a sentence.

The first sub-word of a word stands for the word, as in BERT (Devlin et al. 2019, section 5.3): it
carries the label in training and gives the prediction. A sentence that is too long for the model is
cut into overlapping windows, and each word counts in the window that shows more of the words around
it. With `crf`, the words of a window are a chain in training; at evaluation all words of a sentence
are one chain, since their emissions are known by then.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mtlcli.data.features import NO_TARGET, Features
from mtlcli.data.table import Table
from mtlcli.errors import Problem
from mtlcli.metrics import compute, main_key
from mtlcli.metrics.entities import (
    OUTSIDE_TAG,
    entities,
    has_ends,
    may_follow,
    spell_entities,
)
from mtlcli.registry import suggest
from mtlcli.tasks.base import LibraryHead, Outputs, TaskType
from mtlcli.tasks.checks import (
    counted,
    is_list,
    is_text,
    require_finite,
    short_and_blank,
    shown,
    wrong_type,
)
from mtlcli.tasks.classification import weight_problems
from mtlcli.tasks.classification.labels import balanced
from mtlcli.tasks.tagging import TaggingTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.base import Encoded
    from mtlcli.tasks.tagging.answers import TagAnswers


class Tagging(TaskType[TaggingTask]):
    """A task with one tag for each word.

    The label column holds lists of tags, or lists of ids: of the tags that the file itself names
    (`ClassLabel`), else of `labels`. A row without tags has null or an empty list.
    """

    token_outputs = True
    constant_outputs = ("transitions",)
    item = "word"
    example = ([["O", "B-X", "I-X"]], [["O", "B-X", "O"]])
    label_kind = "tags"
    _weights_there: Tensor | None = None
    """The weights of the tags on the device of the model, once a loss has used them."""
    _train: Table | None = None
    """The train split; None where it is not read, as in an evaluation."""

    @property
    def default_metrics(self) -> list[str]:
        """Return entity F1 first where the tags spell entities, else the accuracy of tags alone."""
        labels = self._known_labels
        return [*(["entity_f1"] if labels and spell_entities(labels) else []), "tag_accuracy"]

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        columns = self.config.columns
        return [columns.words, columns.label] if labelled else [columns.words]

    @property
    def words_column(self) -> str:
        return self.config.columns.words

    def texts(self, table: Table) -> list[str]:
        return [" ".join(words) for words in self.sentences(table)]

    def has_input(self, table: Table) -> NDArray[np.bool_]:
        return np.array([bool(words) for words in self.sentences(table)], bool)

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        column = self.config.columns.label
        if column not in table.rows.column_names or not _holds_tags(table.rows.column(column).type):
            return np.ones(len(table), bool)
        return np.array([bool(tags) for tags in table.column(column)], bool)

    def prepare(self, train: Table | None, others: Sequence[Table] = ()) -> None:
        """Learn the tags from the train split if the config does not name them: those that the file
        names, else the distinct ones, sorted. They are written into the config, so that the saved
        config is complete."""
        self._train = train
        column = self.config.columns.label
        if (
            self._known_labels is not None
            or self.head_owner is not None
            or train is None
            or column not in train.rows.column_names
            or not _holds_tags(train.rows.column(column).type)
        ):
            return
        found = train.class_names(column) or sorted(
            {tag for tags in self._tags(train) for tag in tags or [] if tag is not None},
            key=lambda tag: (not tag.isdecimal(), int(tag) if tag.isdecimal() else 0, tag),
        )
        if found:
            self.config = replace(self.config, labels=found)

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        problems = self._word_problems(table)
        if not problems and self.config.columns.label in table.rows.column_names:
            problems = self._tag_problems(table, labelled=labelled)
        return problems

    def _word_problems(self, table: Table) -> list[Problem]:
        column = self.config.columns.words
        kind = table.rows.column(column).type
        if not (is_list(kind) and is_text(kind.value_type)):
            fix = (
                f'give each row a list of words, ["A", "dog", "barks"], or name another column in '
                f"tasks.{self.name}.columns.words"
            )
            fix += "; csv cannot hold lists, jsonl, parquet and conll can" if is_text(kind) else ""
            return [wrong_type(table, column, "lists of words are needed", fix)]
        sentences = self.sentences(table)
        none, blank = short_and_blank(sentences)
        found = []
        if none:
            found.append(
                counted(
                    table,
                    none,
                    f"column '{column}' has no words",
                    "fill it in, or leave the row out",
                )
            )
        if blank:
            words = sentences[blank[0]]
            place = next(i for i, word in enumerate(words) if not (word and word.strip()))
            what = f"word {place + 1} of {len(words)} in column '{column}' is empty or missing"
            found.append(counted(table, blank, what, "delete it together with its tag"))
        return found

    def _tag_problems(self, table: Table, *, labelled: bool) -> list[Problem]:
        column = self.config.columns.label
        kind = table.rows.column(column).type
        if not _holds_tags(kind):
            fix = (
                'give each row a list of tags, ["DET", "NOUN", "VERB"], or name another column in '
                f"tasks.{self.name}.columns.label"
            )
            return [wrong_type(table, column, "lists of tags or of ids are needed", fix)]
        if self._known_labels is None:
            return self._unknown_set(table)
        if "entity_f1" in self.metrics and not spell_entities(self.labels):
            what = "metric 'entity_f1' needs tags that spell entities: O, B-PER, I-PER, ..."
            return [Problem(what, f"tasks.{self.name}.metrics", "use tag_accuracy")]
        if self.config.constrained and not spell_entities(self.labels):
            what = "the tags do not spell entities (O, B-PER, I-PER, ...): nothing is forbidden"
            return [Problem(what, f"tasks.{self.name}.constrained", "leave it out")]
        if table.split == self.config.splits.train and (
            wrong := list(
                weight_problems(
                    self.config.class_weights, f"tasks.{self.name}.class_weights", self.labels
                )
            )
        ):
            return wrong
        known, rows = set(self.labels), self._tags(table)
        lengths = list(map(len, self.sentences(table)))
        missing = [row for row, tags in enumerate(rows) if not tags]
        uneven = [row for row, tags in enumerate(rows) if tags and len(tags) != lengths[row]]
        strange = [row for row, tags in enumerate(rows) if tags and not known.issuperset(tags)]
        problems = []
        if uneven:
            row = uneven[0]
            what = f"there are {len(rows[row] or [])} tags for {lengths[row]} words"
            problems.append(counted(table, uneven, what, "give each word exactly one tag"))
        if strange:
            tags = rows[strange[0]] or []
            place = next(i for i, tag in enumerate(tags) if tag not in known)
            word, tag = self.sentences(table)[strange[0]][place : place + 1], tags[place]
            what = f"word {place + 1}{f' ({shown(word[0])})' if word else ''} has " + (
                "no tag" if tag is None else f"the tag {shown(tag)}, which is not one of the tags"
            )
            key = f"tasks.{(self.head_owner or self).name}.labels"
            fix = f"{suggest(tag or '', self.labels)} ({key})"
            problems.append(counted(table, strange, what, fix))
        if labelled and len(missing) == len(table):
            problems.append(
                Problem(
                    f"column '{column}' has no tags in any of the {len(table):,} rows",
                    table.origin,
                    f"name the column with the tags in tasks.{self.name}.columns.label",
                )
            )
        elif missing and (labelled or len(missing) < len(table)) and not self._skips:
            fix = f"give each word a tag, or leave the row out: {self._skip}"
            problems.append(counted(table, missing, f"column '{column}' has no tags", fix))
        return problems

    def _unknown_set(self, table: Table) -> list[Problem]:
        """Return the problem of a task whose tags nothing names."""
        if (self.head_owner or self).config.splits.train is None:
            return [
                Problem(
                    "the tags are not known without a train split",
                    f"tasks.{self.name}.labels",
                    "name the tags here",
                )
            ]
        if table.split != self.config.splits.train:
            return []  # The check of the train split reports its fault.
        return [
            Problem(
                f"column '{self.config.columns.label}' has no tags in any of the {len(table):,} "
                "rows",
                table.origin,
                f"name the column with the tags in tasks.{self.name}.columns.label",
            )
        ]

    def doubts(self, train: Table) -> list[Problem]:
        """Return warnings about tags that no train row has, and about sequences of tags that
        cannot be predicted."""
        return [*self._absent_tags(train), *self._forbidden_sequences(train)]

    def _absent_tags(self, train: Table) -> list[Problem]:
        present = {tag for tags in self._tags(train) for tag in tags or []}
        absent = [tag for tag in self.labels if tag not in present]
        if (
            not absent
            or self.head_owner is not None
            or train.class_names(self.config.columns.label)
        ):
            return []
        what = (
            f"no word of split '{train.split}' has the tag {', '.join(absent[:20])}: a tag without "
            "examples cannot be learned"
        )
        fix = f"add rows with them, or take them out of tasks.{self.name}.labels"
        return [Problem(what, train.origin, fix)]

    def _forbidden_sequences(self, train: Table) -> list[Problem]:
        if not self.config.constrained:
            return []
        ends = has_ends(self.labels)
        rows = [
            row
            for row, tags in enumerate(self.gold(train))
            if tags
            and not all(
                may_follow(one, other, ends=ends)
                for one, other in pairwise([OUTSIDE_TAG, *tags, OUTSIDE_TAG])
            )
        ]
        if not rows:
            return []
        what = f"the tags are not a sequence in {'BIOES or BILOU' if ends else 'BIO'}"
        fix = f"correct them, or leave out tasks.{self.name}.constrained, which forbids them"
        return [counted(train, rows, what, fix)]

    def targets(self, table: Table) -> NDArray:
        """Return a checksum of the tags of each row: (rows,)."""
        numbers = {tag: number for number, tag in enumerate(self._known_labels or [])}
        rows = (
            np.array([numbers.get(tag or "", NO_TARGET) for tag in tags or []], np.int32)
            for tags in self._tags(table)
        )
        return np.fromiter((zlib.crc32(row.tobytes()) for row in rows), np.int64, len(table))

    def _tags(self, table: Table) -> list[list[str | None] | None]:
        """Return the tags of each row by name; None for a row without tags, and for a word without
        one."""
        column = self.config.columns.label
        if column not in table.rows.column_names or not _holds_tags(table.rows.column(column).type):
            return [None] * len(table)
        rows = table.column(column)
        kind = table.rows.column(column).type
        if pa.types.is_null(kind) or not pa.types.is_integer(kind.value_type):
            return [tags or None for tags in rows]
        names = table.class_names(column) or self._known_labels or []
        return [
            [_name(number, names) for number in numbers] if numbers else None for numbers in rows
        ]

    def answers(self) -> TagAnswers:
        from mtlcli.tasks.tagging.answers import tag_answers

        return tag_answers(self)

    def prompt_texts(self, table: Table, column: str) -> list[str]:
        return self.texts(table)

    def sentences(self, table: Table) -> list[list[str]]:
        """Return the words of each row."""
        return table.column(self.config.columns.words)

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return a feature for each window. token_columns: `word`, see `TextEncoder.words`.
        token_targets: `tag`, the class id of the word that a token stands for, else -100. columns:
        `words`, the number of tags in a window."""
        stride = self.config.stride
        features = encoder.words(
            self.sentences(table),
            max_length=self.max_length,
            stride=self.max_length // 4 if stride is None else stride,
        )
        numbers = {tag: number for number, tag in enumerate(self.labels)}
        words, tags = (
            features.token_columns["word"],
            np.full(len(features.ids), NO_TARGET, np.int64),
        )
        of_row = self._tags(table)
        counts = np.zeros(len(features), np.int64)
        for index, row in enumerate(features.columns["row"].tolist()):
            given = of_row[row]
            if given is not None:
                window = slice(features.offsets[index], features.offsets[index + 1])
                places = np.flatnonzero(words[window] >= 0)
                ids = np.array([numbers[tag] for tag in given if tag is not None], np.int64)
                tags[window][places] = ids[words[window][places]]
                counts[index] = len(places)
        features.token_targets["tag"] = tags
        features.columns["words"] = counts
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """Return a single linear layer unless `head_layers` is set, as in BERT. `dense` has no
        effect, since token states pass no pooling."""
        from mtlcli.tasks.heads import TokenHead
        from mtlcli.tasks.tagging.crf import ChainHead

        kind = ChainHead if self.config.crf else TokenHead
        return kind(hidden, len(self.labels), dropout, layers=self.head_layers(0), std=std)

    def library_head(self) -> LibraryHead | str:
        if self.config.crf:
            return (
                "its tags are chosen for a sentence as a whole, by transitions that no model of "
                "the transformers library has (crf: true)"
            )
        limits = ["The tag of a word is that of its first token."]
        if self.config.constrained:
            limits.append("mtl leaves out tags that may not follow one another (constrained).")
        return LibraryHead("TokenClassification", tuple(self.labels), None, tuple(limits))

    def outputs(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return `logits`, (batch, length, tags), and with `crf` the `transitions`, see `crf.py`.
        These are a copy, because a parameter that is a shard is whole only during the pass."""
        outputs: dict[str, Tensor] = head(encoded)
        if self.config.crf:
            outputs["transitions"] = head.get_parameter("transitions").float().clone()
        return outputs

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the cross entropy, or focal loss, summed over the words of the batch, or the
        negative log likelihood of its chains. By the chain rule that is a sum over words too: of
        each word's tag given the tags before it."""
        from mtlcli.tasks.losses import class_loss

        if self.config.crf:
            from mtlcli.tasks.tagging.crf import chain_loss

            return chain_loss(
                outputs["logits"].float(), batch.token_targets["tag"], outputs["transitions"]
            )
        logits = outputs["logits"].float().flatten(0, 1)
        if self._weights is not None and (
            self._weights_there is None or self._weights_there.device != logits.device
        ):
            self._weights_there = logits.new_tensor(self._weights)
        return class_loss(
            logits,
            batch.token_targets["tag"].flatten(),
            weight=self._weights_there,
            label_smoothing=self.config.label_smoothing,
            focal_gamma=self.config.focal_gamma,
        )

    @cached_property
    def _weights(self) -> list[float] | None:
        """The weight of each tag in the loss, by id; None where all weigh the same."""
        given = self.config.class_weights
        if isinstance(given, dict):
            return [given.get(label, 1.0) for label in self.labels]
        return self._balanced() if given == "balanced" else given

    def _balanced(self) -> list[float] | None:
        """Return weights that are inverse to the number of words of each tag in the train split;
        None without one, where no loss is computed for training."""
        if self._train is None:
            return None
        counts: Counter[str | None] = Counter()
        for part in self._train.parts():
            counts.update(tag for tags in self._tags(part) for tag in tags or [])
        return balanced(np.array([counts[label] for label in self.labels]))

    def items(self, features: Features, indices: NDArray[np.int64]) -> float:
        if self._weights is None:
            return int(features.columns["words"][indices].sum())
        weights, tags = np.array(self._weights), features.token_targets["tag"]
        spans = (tags[features.offsets[index] : features.offsets[index + 1]] for index in indices)
        return float(sum(weights[span[span != NO_TARGET]].sum() for span in spans))

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"tags": [...]} for each row, one tag for each word. Where tags spell entities,
        `entities` lists their types, texts and first and last words, which are numbered from 0. A
        word without a token, such as a control character alone, gets O, or else the first tag."""
        logits = outputs["logits"]
        require_finite(self.name, logits)
        labels, sentences = self.labels, self.sentences(table)
        found = [[self.other] * len(words) for words in sentences]
        tokens = np.flatnonzero(features.token_columns["word"] >= 0)
        rows = np.repeat(features.columns["row"], features.lengths)[tokens]
        places = features.token_columns["word"][tokens]
        best = self._best(logits[tokens], rows, outputs.get("transitions"))
        for row, place, choice in zip(rows.tolist(), places.tolist(), best.tolist(), strict=True):
            found[row][place] = labels[choice]
        return [self.prediction(words, tags) for tags, words in zip(found, sentences, strict=True)]

    def prediction(self, words: list[str], tags: list[str]) -> dict[str, Any]:
        """Return the prediction for a sentence in the form of `decode`."""
        named = {"entities": _listed(tags, words)} if spell_entities(self.labels) else {}
        return {"tags": tags, **named}

    def _best(
        self, logits: NDArray, rows: NDArray[np.int64], transitions: NDArray | None
    ) -> NDArray[np.int64]:
        """Return the class id of each word: (words,). logits: (words, tags). `rows`: the sentence
        of each word, whose words stand together, whatever their windows: (words,)."""
        if transitions is None and not self.config.constrained:
            best: NDArray[np.int64] = logits.argmax(axis=1)
            return best
        from mtlcli.tasks.tagging.crf import best_tags, forbidden

        if transitions is None:
            transitions = np.zeros((logits.shape[1] + 1, logits.shape[1] + 1), logits.dtype)
        require_finite(self.name, transitions)
        if self.config.constrained:
            transitions = np.where(forbidden(self.labels), -np.inf, transitions)
        return best_tags(logits, rows, transitions)

    def located(self, predictions: list[Any], table: Table) -> list[Any]:
        """Return the predictions with `start` and `end` (exclusive) of each entity, in characters
        of the words joined by spaces."""
        found = []
        for prediction, words in zip(predictions, self.sentences(table), strict=True):
            ends = np.cumsum([len(word) + 1 for word in words]) - 1
            listed = [
                entity
                | {
                    "start": int(ends[entity["first"]]) - len(words[entity["first"]]),
                    "end": int(ends[entity["last"]]),
                }
                for entity in prediction.get("entities", ())
            ]
            more = {"entities": listed} if "entities" in prediction else {}
            found.append(prediction | more)
        return found

    @property
    def other(self) -> str:
        """The tag of a word for which nothing is predicted: O, or else the first tag."""
        return OUTSIDE_TAG if OUTSIDE_TAG in self.labels else self.labels[0]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        return {"predictions": [prediction["tags"] for prediction in predictions]}

    def references(self, table: Table) -> list[Any] | None:
        """Return the tags of each row, or None when a row has none."""
        tags = self._tags(table)
        return None if None in tags else tags

    def gold(self, table: Table) -> list[Any]:
        """Return the tags of each row, or None for a row without tags."""
        known = set(self.labels)
        return [tags if tags and known.issuperset(tags) else None for tags in self._tags(table)]

    def describe(self, gold: list[Any]) -> str:
        """Return the number of words and the number of each tag."""
        words = [tag for tags in gold for tag in tags]
        return f"{len(words):,} words: {super().describe(words)}"

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the best score of giving all words one tag: the most frequent one, or the most
        frequent one that is not O."""
        counts = Counter(tag for tags in references for tag in tags)
        constants = {counts.most_common(1)[0][0]}
        constants |= {tag for tag, _ in counts.most_common(2) if tag != OUTSIDE_TAG}
        return max(
            compute(metric, [[tag] * len(tags) for tags in references], references)[
                main_key(metric)
            ]
            for tag in sorted(constants)
        )


def _listed(tags: list[str], words: list[str]) -> list[dict[str, Any]]:
    """Return the entities of a sentence in the form of a prediction."""
    return [
        {"type": kind, "text": " ".join(words[first : last + 1]), "first": first, "last": last}
        for kind, first, last in entities(tags)
    ]


def _name(number: int | None, names: Sequence[str]) -> str | None:
    """Return the tag of an id. An id outside the names is written as a number, and the check
    refuses it."""
    if number is None:
        return None
    return names[number] if 0 <= number < len(names) else str(number)


def _holds_tags(kind: pa.DataType) -> bool:
    """Return whether a column type holds lists of text or of whole numbers, or only nulls."""
    return bool(
        pa.types.is_null(kind)
        or (
            is_list(kind)
            and (
                is_text(kind.value_type)
                or pa.types.is_integer(kind.value_type)
                or pa.types.is_null(kind.value_type)
            )
        )
    )
