"""Classification: one label out of a fixed set for a text or a pair of texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtlcli.commands import setting
from mtlcli.config.task import listed
from mtlcli.data.features import Features
from mtlcli.data.table import Table, as_numpy, integer_array, text_array
from mtlcli.errors import Problem
from mtlcli.metrics import compute, main_key
from mtlcli.tasks.base import LibraryHead, Outputs
from mtlcli.tasks.checks import (
    ALIKE,
    bare,
    counted,
    distinct,
    nearly_one_each,
    require_finite,
    shown,
    text_problems,
    wrong_type,
)
from mtlcli.tasks.classification import (
    CLASSES_NAMED,
    GROUPED,
    ClassificationTask,
    weight_problems,
)
from mtlcli.tasks.classification.labels import (
    LIKE_NO_LABEL,
    NO_LABEL,
    POINT_ZERO,
    WHOLE,
    balanced,
    has_label,
    holds_labels,
    learned,
    names_in_file,
    renames,
    true_is_first,
    written,
)
from mtlcli.tasks.texts import TextTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.classification.answers import ClassAnswers

MISSING = -100
"""Class id of a row without a label; the loss leaves such rows out."""
UNKNOWN = -101
"""Class id of a row whose label is outside the set."""


class Classification(TextTask[ClassificationTask]):
    """A task with one label out of a fixed set.

    The label column holds class names or ids, each as text or as numbers. A value that is a class
    name means that class, even where it is a whole number (classes 1 to 5 for stars), unless
    `label_ids` makes numbers ids. Other whole numbers are ids where `label_ids` is true; where it
    is not set, only if no class name is a whole number and the classes do not come from the train
    split. If one split of the task holds class names, no split holds ids. True and false mean the
    classes with such names. Ids that the file itself has names for mean these names. Null, an empty
    text and, unless they are class names, -1 (as on the hub) and NaN mark a row without a label.
    """

    example = ([0, 1, 1], [0, 1, 0])
    unit = "group"
    _learned = False
    _unlearned = False
    """Whether the train split has labels from which no classes can be learned."""
    _too_many = ""
    """A description of a train split with too many classes to be true classes; empty if the number
    is plausible."""
    _tables: Sequence[Table] = ()
    """All splits of the task that were read."""

    @property
    def default_metrics(self) -> list[str]:
        return ["accuracy"]

    def required_columns(self, *, labelled: bool = True) -> list[str]:
        """Return the columns of the texts and, with labels, those of the label and the group."""
        needed = super().required_columns(labelled=labelled)
        return list(dict.fromkeys([*needed, *(listed(self.config.group) if labelled else [])]))

    def row_inputs(self, metric: str, table: Table) -> dict[str, Any]:
        return {"groups": self.clusters(table)} if metric == GROUPED else {}

    def clusters(self, table: Table) -> list[Any] | None:
        """Return the columns of `group`, as text; None where a split without labels lacks them."""
        columns = listed(self.config.group)
        if not columns or not set(columns) <= set(table.rows.column_names):
            return None
        return list(map(repr, zip(*map(table.column, columns), strict=True)))

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        return has_label(table, self.config.columns.label, self._known_labels)

    def prepare(self, train: Table | None, others: Sequence[Table] = ()) -> None:
        """Learn the classes from the train split if the config does not name them: the distinct
        labels as they are written, sorted, in numerical order if all are whole numbers. They are
        written into the config, so that the saved config is complete. -1 is a class only beside a
        value such as +1.

        All splits are kept, to be searched for class names.
        """
        if self._known_labels is None and self.head_owner is None and train is not None:
            self._learn(train)
        self._tables = others if train is None else [train, *others]
        if self._learned and train is not None:
            ids = self._ids(train)
            classes, rows = len(np.unique(ids[ids >= 0])), int(np.count_nonzero(ids >= 0))
            if nearly_one_each(classes, rows):
                self._too_many = (
                    f"column '{self.config.columns.label}' has {classes:,} classes in "
                    f"{rows:,} rows of split '{train.split}'"
                )

    def _learn(self, train: Table) -> None:
        column = self.config.columns.label
        if column not in train.rows.column_names or not holds_labels(
            train.rows.column(column).type
        ):
            return
        names = train.class_names(column)
        if names is not None and pa.types.is_integer(train.rows.column(column).type):
            self._learned, self.config = True, replace(self.config, labels=names)
            return
        found = learned(train, column)
        self._learned, self._unlearned = found is not None, found is None
        if found is not None:
            self.config = replace(self.config, labels=found, label_ids=False)

    _weights_there: Tensor | None = None
    """The weights of the classes on the device of the model, once a loss has used them."""

    @cached_property
    def _weights(self) -> list[float] | None:
        """The weight of each class in the loss, by id; None where all classes weigh the same."""
        given = self.config.class_weights
        train = next(
            (table for table in self._tables if table.split == self.config.splits.train), None
        )
        if given is None or train is None:
            return None
        if isinstance(given, list):
            return given
        if isinstance(given, dict):
            return [given.get(label, 1.0) for label in self.labels]
        ids = self._ids(train)
        return balanced(np.bincount(ids[ids >= 0], minlength=len(self.labels)))

    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        if self.config.columns.label in table.rows.column_names and (
            swapped := self._swapped(table)
        ):
            earlier = takewhile(lambda other: other is not table, self._tables)
            return [] if any(map(self._swapped, earlier)) else [swapped]
        problems = self.input_problems(table)
        if self.config.columns.label not in table.rows.column_names:
            return problems
        if table.split == self.config.splits.train and self._known_labels is not None:
            problems += weight_problems(
                self.config.class_weights, f"tasks.{self.name}.class_weights", self.labels
            )
        return problems + self._label_problems(table, labelled=labelled)

    def input_problems(self, table: Table) -> list[Problem]:
        """Return the faults of the columns that the model reads."""
        return text_problems(table, self.input_columns)

    def _swapped(self, table: Table) -> Problem | None:
        """Return the problem that the text and label columns look swapped, or None. They do if a
        text column holds the classes while no label is a class, or if it has only a few distinct
        texts while the label column has a class for nearly every row."""
        label = self.config.columns.label
        values = table.rows.column(label)
        classes = len(values.unique()) if self._too_many else 0
        no_label_is_a_class = self._known_labels is not None and bool(
            (self._ids(table) == UNKNOWN).all()
        )
        if not len(table) or not (nearly_one_each(classes, len(table)) or no_label_is_a_class):
            return None
        for key in ("text", "text_pair"):
            text = getattr(self.config.columns, key)
            if not isinstance(text, str) or not holds_labels(table.rows.column(text).type):
                continue
            texts = table.rows.column(text)
            if 2 * len(texts.unique()) <= classes or (
                no_label_is_a_class and (self._ids(table, text) >= 0).all()
            ):
                example, other = shown(texts[0].as_py()), shown(values[0].as_py())
                what = (
                    f"columns '{text}' and '{label}' look swapped: the text is {example}, the "
                    f"label {other}"
                )
                at = f"tasks.{self.name}.columns"
                return Problem(
                    what,
                    table.where(0),
                    f"set {setting(f'{at}.{key}', label)} and {setting(f'{at}.label', text)}",
                )
        return None

    def _label_problems(self, table: Table, *, labelled: bool) -> list[Problem]:
        column = self.config.columns.label
        kind = table.rows.column(column).type
        if not holds_labels(kind):
            fix = f"name another column in tasks.{self.name}.columns.label"
            return [
                wrong_type(
                    table, column, "class names (text) or ids (whole numbers) are needed", fix
                )
            ]
        head_owner = self.head_owner or self
        if self._known_labels is None and head_owner.config.splits.train is None:
            return [
                Problem(
                    "the classes are not known without a train split",
                    f"tasks.{self.name}.labels",
                    "name the classes here",
                )
            ]
        if self._known_labels is None and not (
            self._unlearned and table.split == self.config.splits.train
        ):
            # The classes would have come from the train split, whose own check reports its fault.
            return []
        ids = self._ids(table)
        missing = np.flatnonzero(ids == MISSING)
        mark = self._mark(table, missing)
        if labelled and len(missing) == len(table):
            fix = (
                mark
                or f"name the column with the labels in tasks.{self.name}.columns.label, or fill "
                "it in"
            )
            return [
                Problem(
                    f"column '{column}' has no label in any of the {len(table):,} rows: null, "
                    "empty, NaN or -1",
                    table.origin,
                    fix,
                )
            ]
        if self._known_labels is not None and len(self.labels) < 2:
            if table.split != self.config.splits.train:
                return []
            what = f"column '{column}' holds fewer than two classes: {', '.join(self.labels)}"
            return [
                Problem(
                    what,
                    table.origin,
                    mark or f"name all classes in tasks.{self.name}.labels, or leave the task out",
                )
            ]
        problems = []
        if len(unknown := np.flatnonzero(ids == UNKNOWN)):
            problems.append(self._unknown_labels(table, unknown))
        if labelled and len(missing) and not self._skips:
            fix = mark or f"fill it in, or leave the row out: {self._skip}" + (
                f"; allowed: {self._allowed()}" if self._known_labels else ""
            )
            problems.append(
                counted(
                    table, missing, f"column '{column}' has no label: null, empty, NaN or -1", fix
                )
            )
        elif 0 < len(missing) < len(table) and not self._skips:
            what = (
                f"column '{column}' has no label: null, empty, NaN or -1, while other rows of "
                "the split have one"
            )
            problems.append(
                counted(
                    table,
                    missing,
                    what,
                    f"label all rows of a split, or none, or leave such rows out: {self._skip}",
                )
            )
        return problems

    def _mark(self, table: Table, missing: NDArray[np.int64]) -> str:
        """Return the advice for the case that -1 or NaN is meant as a class; empty when none of the
        `missing` rows has such a value."""
        there = self._written(table).take(integer_array(missing)).unique().to_pylist()
        mark = next((text for text in NO_LABEL if text and text in there), None)
        if mark is None:
            return ""
        key, named = (
            f"tasks.{(self.head_owner or self).name}.labels",
            _listed([mark, *(self._known_labels or [])]),
        )
        return (
            f"{mark} says that a row has no label; {self._skip} leaves such rows out; if it is "
            f"a class, name it in {key}: {named}"
        )

    def _unknown_labels(self, table: Table, rows: NDArray[np.int64]) -> Problem:
        """Return the problem of rows whose label is outside the set."""
        column = self.config.columns.label
        values = table.rows.column(column)
        if pa.types.is_floating(values.type):
            needed = "class names (text) or ids (whole numbers) are needed"
            fix = (
                "write the labels as whole numbers (1, not 1.0), or name another column in "
                f"tasks.{self.name}.columns.label"
            )
            return wrong_type(table, column, needed, fix, int(rows[0]))
        found = values.take(integer_array(rows)).unique().to_pylist()
        more = f"; others: {', '.join(map(shown, found[1:6]))}" if len(found) > 1 else ""
        what = f"label {shown(found[0])} is not one of the classes{more}"
        key = f"tasks.{(self.head_owner or self).name}.labels"
        if pa.types.is_boolean(values.type):
            what = (
                f"column '{column}' holds true and false, and the classes do not say which of "
                "them is true"
            )
            fix = (
                "write the names of the classes into the column, or name true and false in "
                f"{key}; allowed: {self._allowed()}"
            )
            return counted(table, rows, what, fix)
        names = names_in_file(table, column, self._known_labels, self._configured_ids)
        if names is not None and isinstance(found[0], int):
            named = f"'{names[found[0]]}'" if 0 <= found[0] < len(names) else "by no name"
            what = (
                f"label {found[0]}, which the file calls {named}, is not one of the classes{more}"
            )
            fix = (
                f"the file calls its classes {', '.join(names[:CLASSES_NAMED])}; allowed: "
                f"{self._allowed()}"
            )
            if renames(names, self.labels):
                fix += f"; if they mean the same in this order, set {key[:-1]}_ids=true"
            return counted(table, rows, what, fix)
        first = str(found[0])
        whole = first.partition(".")[0] if POINT_ZERO.fullmatch(first) else None
        if self._known_labels is None:
            what = f"label {shown(found[0])} is a whole number with a decimal point{more}"
            fix = (
                f"write {whole}; or, if the classes are called so, name them in {key}: "
                f"{_listed(map(str, found))}"
            )
        elif whole is not None and self._class_ids([whole])[0] >= 0:
            fix = f"write {whole}, without a decimal point; allowed: {self._allowed()}"
        elif first in ("0", "1") and true_is_first(self.labels) and not self._ids_allowed:
            zero = self.labels[0]
            fix = (
                f"write the names, as 0 could mean {zero} by its place or false by itself; if 0 "
                f"is {zero}, set {key[:-1]}_ids=true"
            )
        elif self._named and self._ids_allowed and WHOLE.fullmatch(first):
            fix = f"{self._named}, so that numbers are no ids here; allowed: {self._allowed()}"
        elif alike := next((label for label in self.labels if bare(label) == bare(first)), None):
            fix = (
                f"write {distinct([alike, first])(alike)}, which differs in {ALIKE}; allowed: "
                f"{self._allowed()}"
            )
        elif self._too_many:
            what = f"label {shown(found[0])} is not one of the classes, and {self._too_many}"
            others = [
                name for name in table.all_names if name not in vars(self.config.columns).values()
            ]
            there = f"; other columns: {', '.join(others[:CLASSES_NAMED])}" if others else ""
            fix = (
                "is it the label column? name the column with the labels in "
                f"tasks.{self.name}.columns.label{there}"
            )
        else:
            fix = f"allowed: {self._allowed()}"
            # An existing run has its classes already and does not read its train split.
            trains = any(each.split == self.config.splits.train for each in self._tables)
            if (
                len(rows) == len(table)
                and 2 <= len(found) <= CLASSES_NAMED
                and trains
                and not self._learned
            ):
                classes = setting(key, sorted(map(str, found)))
                fix += f"; if the labels in the file are the classes, type {classes}"
        return counted(table, rows, what, fix)

    def _allowed(self) -> str:
        """Return the list of the classes, or of the first ones if there are many, and the key that
        sets them."""
        shorter = self.labels[:CLASSES_NAMED]
        names = (
            [f"{number} = {label}" for number, label in enumerate(shorter)]
            if self._takes_ids
            else shorter
        )
        more = [f"... ({len(self.labels)} classes)"] if len(self.labels) > len(shorter) else []
        key = f"tasks.{(self.head_owner or self).name}.labels"
        origin = (
            f"all that split '{self.config.splits.train}' has; name others in {key}"
            if self._learned
            else key
        )
        return f"{', '.join(names + more)} ({origin})"

    def doubts(self, train: Table) -> list[Problem]:
        """Return warnings about classes that no train row has, and about labels that are hardly
        meant as classes."""
        present = set(np.unique(self._ids(train)).tolist())
        absent = [label for number, label in enumerate(self.labels) if number not in present]
        found: list[Problem] = []
        if self._learned and self.head_owner is None:
            found = self._odd_names(train)
        if not absent or self.head_owner is not None:
            return found
        named = ", ".join(absent[:CLASSES_NAMED]) + (", ..." if len(absent) > CLASSES_NAMED else "")
        what = (
            f"no row of split '{train.split}' has the label {named}: a class without examples "
            "cannot be learned"
        )
        return [
            *found,
            Problem(
                what,
                train.origin,
                f"add rows with them, or take them out of tasks.{self.name}.labels",
            ),
        ]

    def _odd_names(self, train: Table) -> list[Problem]:
        """Return warnings about learned classes whose names suggest that they are not classes."""
        ids = self._ids(train)
        found = []
        for number, label in enumerate(self.labels):
            rows = np.flatnonzero(ids == number)
            if len(rows) and label.strip().casefold() == self.config.columns.label.casefold():
                what = (
                    f"class {label!r} is the name of its column: is the row a header left over "
                    "from joined files?"
                )
                found.append(
                    counted(
                        train,
                        rows,
                        what,
                        f"delete it; if it is a class, list all in tasks.{self.name}.labels",
                    )
                )
            elif len(rows) and label in LIKE_NO_LABEL:
                fix = (
                    f"leave the field empty, and set {self._skip}; if it is a class, list all in "
                    f"tasks.{self.name}.labels"
                )
                found.append(
                    counted(train, rows, f"class {label!r} looks like a missing label", fix)
                )
        return found

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of their ids."""
        return self.labels

    def targets(self, table: Table) -> NDArray:
        """Return the class id of each row: (rows,)."""
        return self._ids(table)

    @property
    def _configured_ids(self) -> bool | None:
        """Whether numbers are ids, if the config says so explicitly; None if it does not."""
        own = self.config.label_ids
        return own if own is not None else (self.head_owner or self).config.label_ids

    @property
    def _ids_allowed(self) -> bool:
        """Whether whole numbers may be ids, according to the config and the names of the
        classes."""
        if (configured := self._configured_ids) is not None:
            return configured
        labels = self._known_labels or []
        return not any(WHOLE.fullmatch(label) for label in labels) and not true_is_first(labels)

    @cached_property
    def _named(self) -> str:
        """The place where a split of the task holds a class name, so that no split holds ids; empty
        if no split holds one."""
        names = text_array(
            label for label in self._known_labels or [] if not WHOLE.fullmatch(label)
        )
        for table in self._tables:
            if table.class_names(self.config.columns.label) is not None:
                continue  # The metadata names the classes, so the column holds ids.
            texts = self._written(table)
            rows = pc.indices_nonzero(pc.is_in(texts, names))
            if len(rows):
                row = rows[0].as_py()
                return f"{table.where(row)} holds the name {texts[row].as_py()}"
        return ""

    @property
    def _takes_ids(self) -> bool:
        """Whether whole numbers in the label column are ids, in all splits of the task or in
        none."""
        return self._ids_allowed and not self._named

    def _written(self, table: Table) -> pa.Array:
        """Return the label of each row as it is written, null where the row has none: (rows,) of
        text."""
        return written(table, self.config.columns.label, self._known_labels, self._configured_ids)[
            0
        ]

    def _class_ids(self, texts: Sequence[str], *, names: bool = False) -> list[int]:
        """Return the class id of each label text, or MISSING or UNKNOWN. `names`: whether it is
        certain that no text is an id."""
        numbers = {label: number for number, label in enumerate(self._known_labels or [])}
        takes_ids = not names and self._takes_ids

        def class_id(text: str) -> int:
            whole = takes_ids and WHOLE.fullmatch(text)
            if text in numbers and not whole:
                return numbers[text]
            if text in NO_LABEL:
                return MISSING
            return int(text) if whole and 0 <= int(text) < len(numbers) else UNKNOWN

        return [class_id(text) for text in texts]

    def _ids(self, table: Table, column: str | None = None) -> NDArray[np.int64]:
        """Return the class id of each row, or MISSING or UNKNOWN: (rows,). `column`: another column
        to read than the label column."""
        found = []
        for part in table.parts():
            texts, names = written(
                part, column or self.config.columns.label, self._known_labels, self._configured_ids
            )
            encoded = texts.dictionary_encode(null_encoding="encode")
            values = encoded.dictionary.to_pylist()
            ids = iter(self._class_ids([text for text in values if text is not None], names=names))
            classes = [MISSING if text is None else next(ids) for text in values]
            found.append(np.array(classes, np.int64)[as_numpy(encoded.indices)])
        return np.concatenate(found)

    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        features = self.encode_texts(table, encoder)
        features.columns["label"] = self._ids(table)[features.columns["row"]]
        return features

    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        from mtlcli.tasks.heads import PooledHead

        return PooledHead(
            hidden, len(self.labels), dropout, layers=self.head_layers(int(dense)), std=std
        )

    def library_head(self) -> LibraryHead | str:
        return LibraryHead(
            "SequenceClassification", tuple(self.labels), "single_label_classification"
        )

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the summed cross entropy, or focal loss, with class weights and smoothed labels if
        the config sets them."""
        from mtlcli.tasks.losses import class_loss

        logits = outputs["logits"].float()
        return class_loss(
            logits,
            batch.columns["label"],
            weight=None if self._weights is None else self._weights_near(logits),
            label_smoothing=self.config.label_smoothing,
            focal_gamma=self.config.focal_gamma,
        )

    def _weights_near(self, logits: Tensor) -> Tensor:
        """Return the weights of the classes on the device of the logits, where they stay: a copy in
        each step would wait for the device."""
        if self._weights_there is None or self._weights_there.device != logits.device:
            self._weights_there = logits.new_tensor(self._weights)
        return self._weights_there

    def divergence(self, outputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        from mtlcli.tasks.losses import class_divergence

        return class_divergence(outputs["logits"], others["logits"])

    def distance(self, outputs: dict[str, Tensor], teacher: Tensor, temperature: float) -> Tensor:
        from mtlcli.tasks.losses import class_distance

        return class_distance(outputs["logits"], teacher, temperature)

    def items(self, features: Features, indices: NDArray[np.int64]) -> float:
        labels = features.columns["label"][indices]
        labels = labels[labels != MISSING]
        return (
            len(labels) if self._weights is None else float(np.array(self._weights)[labels].sum())
        )

    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return {"label": name, "probabilities": {name: probability}} for each row."""
        logits = np.empty((len(table), len(self.labels)))
        logits[features.columns["row"]] = outputs["logits"]
        require_finite(self.name, logits)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        labels = self.labels
        return [
            {"label": labels[choice], "probabilities": dict(zip(labels, row, strict=True))}
            # Class by class, since a list for each row would be searched for garbage.
            for choice, row in zip(
                logits.argmax(axis=1).tolist(),
                zip(*(each.tolist() for each in probabilities.T), strict=True),
                strict=True,
            )
        ]

    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        """Return the predictions as class ids, and the options of the metric."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        ids = [numbers[prediction["label"]] for prediction in predictions]
        return {"predictions": ids, **self._options(metric)}

    def references(self, table: Table) -> list[Any] | None:
        """Return the class id of each row, or None when a row has no label."""
        ids = self._ids(table)
        return None if (ids == MISSING).any() else ids.tolist()

    def gold(self, table: Table) -> list[Any]:
        """Return the class name of each row, or None for a row without a label."""
        labels = self.labels
        return [labels[number] if number >= 0 else None for number in self._ids(table).tolist()]

    def references_of(self, rows: list[dict[str, Any]]) -> list[Any]:
        numbers = {label: number for number, label in enumerate(self.labels)}
        return [numbers[row["gold"]] for row in rows]

    def answers(self) -> ClassAnswers:
        from mtlcli.tasks.classification.answers import ClassAnswers

        return ClassAnswers(self)

    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the best score of a constant prediction. Only the most frequent class and class 1,
        which F1 of two classes is about, can have it, unless rows count in groups."""
        constants = set(references) if rows else {Counter(references).most_common(1)[0][0], 1}
        options = self._options(metric) | rows
        scores = [
            compute(metric, [number] * len(references), references, **options)
            for number in constants
        ]
        return max(score[main_key(metric)] for score in scores)

    def _options(self, metric: str) -> dict[str, Any]:
        """Return the number of classes for precision, recall and F1, which need it."""
        return (
            {"classes": len(self.labels)}
            if metric.startswith(("f1", "precision", "recall"))
            else {}
        )


def _listed(labels: Iterable[str]) -> str:
    """Return some labels as a list in a form that YAML and the command line take."""
    return json.dumps(sorted(labels)[:CLASSES_NAMED], ensure_ascii=False)
