"""The base class of task types: how examples become features, which head and loss a task has, how
outputs become predictions, and which metrics score them.

All that a task type does is in one file, and no code elsewhere asks what type a task has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.run import Text
from mtlcli.config.task import Task, task_types
from mtlcli.data.features import Features, Split
from mtlcli.data.table import Table
from mtlcli.errors import Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder
    from mtlcli.tasks.answers import Choices, FreeText, Options
    from mtlcli.tasks.decoder import DecoderHead
    from mtlcli.tasks.drawing import Drawing

C = TypeVar("C", bound=Task)
FIXED = ()
"""The seed of what is drawn for a batch outside training: it is the same in each evaluation."""
Outputs = dict[str, NDArray]
"""The outputs of a head for the features of a split, as arrays: one row per feature (N, ...) or,
for token outputs, flat over all tokens (total tokens, ...); constant outputs have a shape of their
own."""


@dataclass
class Encoded:
    """The output of a backbone for one batch, which the heads take."""

    hidden: Tensor
    """Token states: (batch, length, hidden). Where no head reads more than the pooled vector, they
    are also (1, tokens, hidden), from a packed batch, or (batch, 1, hidden), from `mtlcli.fast`."""
    pooled: Tensor
    """One vector per input: (batch, hidden)."""
    mask: Tensor
    """True where there is a token, False where there is padding: (batch, length)."""
    language: Callable[[Tensor], Tensor] | None = None
    """The language head of the backbone, if it has one: token states (..., hidden) -> scores of
    all tokens of the vocabulary for the token that follows (..., vocabulary), in fp32."""
    decoder: DecoderHead | None = None
    """The decoder of the backbone, if it is an encoder-decoder that answers in text."""


class Inference(Protocol):
    """What a task can ask of the model when it predicts."""

    def encode(self, batch: Batch) -> Encoded:
        """Return the encoding of a batch of the task."""
        ...

    def generate(
        self,
        batch: Batch,
        *,
        most: int,
        beams: int,
        end: int,
        allowed: Callable[[list[int]], list[int]] | None,
        drawing: Drawing | None = None,
    ) -> Tensor:
        """Return the token ids with which the language model goes on: (batch, `most`), filled up
        with `end`, the id that ends an answer.

        `beams`: the number of answers to follow at the same time. `allowed`: what may follow the
        tokens of an answer so far; None: any token. `drawing`: draws each token; None: the most
        likely one is taken.
        """
        ...


@dataclass
class Foundation:
    """What a head stands on."""

    hidden: int
    """Width of the token states and of the pooled vector."""
    dropout: float
    """Dropout in the head."""
    dense: bool
    """Whether a head on the pooled vector puts a dense tanh layer before its output layer."""
    std: float
    """Standard deviation of the initial weights."""
    embeddings: Tensor
    """The backbone's word embeddings: (vocabulary, width of the embeddings)."""
    decoder: Callable[[], nn.Module] | None
    """Returns a new copy of the decoder, with its language-model head, that the backbone's model
    has; None where it has none."""


@dataclass(frozen=True)
class LibraryHead:
    """The kind of model in the transformers library that does what a task's head does."""

    kind: str
    """The end of the name of its automatic class: `SequenceClassification` for
    `AutoModelForSequenceClassification`."""
    labels: tuple[str, ...] = ()
    """The names of its outputs, by number."""
    problem: str | None = None
    """Its `problem_type`, if it has one."""
    limits: tuple[str, ...] = ()
    """What this program does to the outputs in addition, as sentences: the library does not."""


class TaskType(ABC, Generic[C]):
    """One task of a run, made from its config. Subclasses are the task types; torch is imported
    only inside the methods that need it."""

    token_outputs: ClassVar[bool] = False
    """Whether predictions are made from one output per token (outputs are then gathered flat over
    tokens). If not, they are made from one per feature."""
    constant_outputs: ClassVar[tuple[str, ...]] = ()
    """The outputs for predictions that do not depend on the input, such as a matrix of the head;
    `decode` gets each as it is."""
    answers_in_text: ClassVar[bool] = False
    """Whether the backbone needs a language head for it."""
    predicts: ClassVar[bool] = True
    """Whether its predictions say something about new rows. They do not where a task only trains
    the model, on a problem that it makes up itself."""
    item: ClassVar[str] = "example"
    """The name of the items that the loss is a mean over."""
    example: ClassVar[tuple[list[Any], list[Any]]]
    """Predictions and references in the form that metrics of the package `evaluate` take, on which
    such a metric is tried."""
    loss_kind: ClassVar[str] = "classification"
    """`classification` (a log likelihood over classes) or `regression` (a squared error), for which
    uncertainty weighting has different terms."""

    unit: ClassVar[str] = "row"
    """What `clusters` numbers, in the singular."""
    label_kind: ClassVar[str] = "classes"
    """What messages call the labels."""

    def __init__(self, name: str, config: C) -> None:
        self.name = name
        self.config = config
        self.head_owner: TaskType[C] | None = None
        """The head owner: the task whose head this task uses, or None if it has its own head. Set
        when the tasks of a run are built."""
        self.encoder: TextEncoder | None = None
        """The run's tokenizer; set by `use` before anything is encoded."""

    @property
    @abstractmethod
    def default_metrics(self) -> list[str]:
        """The names of the metrics in mtlcli/metrics that are computed by default, the main one
        first."""

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics to compute, the main one first."""
        return self.config.metrics or self.default_metrics

    @property
    def reads_tokens(self) -> bool:
        """Whether the head reads the states of all tokens, and not the pooled vector alone."""
        return self.token_outputs

    def use(self, encoder: TextEncoder, *, has_decoder: bool) -> list[Problem]:
        """Take the run's tokenizer. `has_decoder`: whether the model has a decoder of its own.
        Returns the settings of the task that do not fit the model."""
        self.encoder = encoder
        augment = self.config.augment
        if augment is None or not augment.word_dropout or encoder.unknown_id is not None:
            return []
        return [
            Problem(
                "the tokenizer of the model has no token for unknown words, behind which word "
                "dropout could hide one",
                f"tasks.{self.name}.augment.word_dropout",
                "take it out, or type delete, which leaves words out",
            )
        ]

    @property
    def labels(self) -> list[str]:
        """The names of the labels in the order of their ids, taken from the head owner if the task
        has one. Raises ValueError if they are not known yet, or the task type has none."""
        labels = self._known_labels
        if labels is None:
            raise ValueError(
                f"the {self.label_kind} of task '{self.name}' are not known: prepare() has not "
                "seen a train split"
            )
        return labels

    @property
    def _known_labels(self) -> list[str] | None:
        return getattr((self.head_owner or self).config, "labels", None)

    @property
    def max_length(self) -> int:
        """The longest input in tokens. Raises ValueError if it is null in the config: a task's null
        is replaced by `data.max_length` beforehand."""
        if self.config.max_length is None:
            raise ValueError(
                f"max_length of task '{self.name}' was not resolved from data.max_length"
            )
        return self.config.max_length

    @property
    def _skip(self) -> str:
        """The setting that leaves out rows without a label."""
        return f"tasks.{self.name}.unlabelled=skip"

    @property
    def _skips(self) -> bool:
        """Whether rows without a label are accepted beside rows with one. If such rows are in the
        table at all, a prediction is wanted for each."""
        return self.config.unlabelled == "skip"

    def head_layers(self, usual: int) -> int:
        """Return the number of dense layers of the head before its output layer: the config's
        number, or `usual` if the config has none."""
        return usual if self.config.head_layers is None else self.config.head_layers

    @property
    def words_column(self) -> str | None:
        """The column with the words of a sentence as a list; None for a task type that takes
        running text."""
        return None

    @property
    def column_contents(self) -> dict[str, str]:
        """What those columns of the input hold that are not one text for each row of a user: the
        column -> `texts`, a list of texts; `words`, a list of words; `number`, a whole number."""
        return {}

    @abstractmethod
    def required_columns(self, *, labelled: bool = True) -> list[str]:
        """Return the columns that the table must have. `labelled`: whether the column of labels is
        one of them."""

    @property
    def compared_columns(self) -> list[str]:
        """The columns by which rows count as equal: those of the inputs, without ids."""
        ids = {getattr(self.config.columns, key, None) for key in ("id", "query_id")}  # type: ignore[attr-defined]
        return [column for column in self.required_columns(labelled=False) if column not in ids]

    @abstractmethod
    def texts(self, table: Table) -> list[str]:
        """Return all text of a table, on which a tokenizer can be trained."""

    def prepare(self, train: Table | None, others: Sequence[Table] = ()) -> None:
        """Learn from the train split what the config leaves open (for example the label set), and
        from all splits what must be the same in each (for example whether labels are names or ids).
        Called once, before `check`. `others`: the other splits of the task."""

    def labelled(self, table: Table) -> NDArray[np.bool_]:
        """Return which rows are not marked as rows without a label, whether or not their label is
        valid: (rows,). Called before `prepare`."""
        return np.ones(len(table), bool)

    def has_input(self, table: Table) -> NDArray[np.bool_]:
        """Return which rows have text in every column of text that the model reads: (rows,)."""
        columns = [
            column
            for column in self.required_columns(labelled=False)
            if column in table.rows.column_names
        ]
        found = []
        for part in table.parts():
            there = np.ones(len(part), bool)
            for column in columns:
                there &= [
                    not isinstance(value, str | None) or bool(value and value.strip())
                    for value in part.column(column)
                ]
            found.append(there)
        return np.concatenate(found)

    @abstractmethod
    def check(self, table: Table, *, labelled: bool) -> list[Problem]:
        """Return the faults of the rows, each with its file and row (`table.where(row)`) and the
        remedy. The required columns are known to be there.

        The rows with the same fault make one Problem, with their number and the first of them.
        `labelled`: whether labels are needed (train and validation) or may be missing (test).
        """

    def doubts(self, train: Table) -> list[Problem]:
        """Return warnings about a valid train split. They do not stop the run."""
        return []

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, in the order of the numbers that `targets` returns; empty where
        targets are not classes."""
        return ()

    def targets(self, table: Table) -> NDArray | None:
        """Return one number per row, equal for equal labels: (rows,); None for a task type whose
        labels are not compared."""
        return None

    def prompt_texts(self, table: Table, column: str) -> list[str]:
        """Return the text that takes the place of a column in a prompt (`form=text`), for each row.
        `column`: one of the config's `text_columns`."""
        return table.column(column)

    def answers(self) -> Choices | Options | FreeText | None:
        """Return how the labels are answers of a language model; None for a task type whose tasks
        cannot be put as prompt and answer. Called once the labels are known."""
        return None

    def encoding_settings(self) -> dict[str, Any]:
        """Return everything beside the rows, their targets and the text encoder that the features
        depend on, in a form that JSON can hold."""
        config = asdict(self.config)
        return {
            name: value for name, value in config.items() if name not in self.config.not_encoded
        }

    @abstractmethod
    def encode(self, table: Table, encoder: TextEncoder) -> Features:
        """Return the features of all rows, in row order. A missing label is -100 (ids) or NaN
        (scores)."""

    def note(self, what: str, table: Table, features: Features) -> Problem | None:
        """Return the warning about a note of `encode` that counts more than 0, if the task type has
        one; otherwise the note and its count are shown as they are."""
        return None

    def drawn(self, batch: Batch, seed: tuple[int, ...]) -> Batch:
        """Return the batch, in host memory, with what is drawn each time that features are used,
        such as the tokens that are hidden: a function of the seed and of each feature by itself, so
        that neither the other features of the batch nor the number of ranks matter. By default the
        words of training texts are changed, if the config asks for it (`augment`). `seed`: FIXED
        outside training."""
        if self.config.augment is None or seed == FIXED:
            return batch
        from mtlcli.tasks.words import changed

        assert self.encoder is not None
        longest = self.encoder.limit(self.max_length)
        # Tasks with rows of the same numbers draw different changes.
        seed = (*seed, crc32(self.name.encode()))
        return changed(batch, self.config.augment, self.encoder, seed, longest)

    @abstractmethod
    def build_head(self, hidden: int, dropout: float, *, dense: bool, std: float) -> nn.Module:
        """Return the module `head(encoded: Encoded) -> dict[str, Tensor]`. `dense`: whether to put
        a dense tanh layer before the output layer (for backbones whose pooled vector has not passed
        one). `std`: the standard deviation of the initial weights."""

    def head_on(self, foundation: Foundation) -> nn.Module:
        """Return the head on a backbone. Task types whose head takes more from the backbone than
        its width build it here."""
        return self.build_head(
            foundation.hidden,
            foundation.dropout,
            dense=foundation.dense,
            std=foundation.std,
        )

    def library_head(self) -> LibraryHead | str:
        """Return the kind of model in the transformers library that does what the head does, or why
        there is none, as a sentence."""
        return f"the transformers library has no kind of model for tasks of type {self.config.type}"

    def outputs(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return what `loss` reads. Task types whose head also reads the targets (a decoder) pass
        them on here."""
        outputs: dict[str, Tensor] = head(encoded)
        return outputs

    def predict(self, head: nn.Module, encoded: Encoded, batch: Batch) -> dict[str, Tensor]:
        """Return what `decode` reads, outside training: one row per feature (batch, ...), or per
        token (batch, length, ...) where `token_outputs` is true, and the `constant_outputs`. Task
        types that generate do so here."""
        return self.outputs(head, encoded, batch)

    def infer(self, head: nn.Module, model: Inference, batch: Batch) -> dict[str, Tensor]:
        """Return what `decode` reads for a batch, outside training: see `predict`. Task types that
        need more than one pass for it call the model themselves."""
        return self.predict(head, model.encode(batch), batch)

    @abstractmethod
    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the loss SUMMED over the labelled items of the batch: a scalar in fp32. The caller
        divides it by the `items` of the whole step."""

    def mixed(self, batch: Batch, order: Tensor, share: float) -> list[tuple[float, Batch]]:
        """Return what the loss of a mixture is made of: batches with other labels, and the factor
        of the loss of each. Called only where `config.mixes`.

        A mixture holds `share` of each input and 1 - `share` of the input at `order` (B,). The loss
        is linear in the label by default.
        """
        columns = {name: values[order] for name, values in batch.columns.items()}
        return [(share, batch), (1 - share, replace(batch, columns=columns))]

    def divergence(self, outputs: dict[str, Tensor], others: dict[str, Tensor]) -> Tensor:
        """Return how far the outputs of two passes over the same inputs are apart, summed over the
        inputs: a scalar in fp32. For distributions P and Q of classes it is KL(P || Q) +
        KL(Q || P), for numbers the squared difference. Called only where `config.compares`."""
        raise NotImplementedError(f"{type(self).__name__} does not compare outputs")

    def distance(self, outputs: dict[str, Tensor], teacher: Tensor, temperature: float) -> Tensor:
        """Return how far the outputs are from those of a teacher, which are targets, summed over
        the inputs: a scalar in fp32. For classes it is T^2 KL(P || Q) of the distributions P of the
        teacher and Q of the outputs at the temperature T; for numbers the squared difference.
        Called only where `config.compares`. teacher: (B, outputs), the logits or the numbers."""
        raise NotImplementedError(f"{type(self).__name__} does not compare outputs")

    @abstractmethod
    def items(self, features: Features, indices: NDArray[np.int64]) -> float:
        """Return the denominator of the mean loss of some features: the number of their labelled
        items, or the sum of the weights of these items."""

    def calibrate(self, outputs: Outputs, split: Split) -> dict[str, float]:
        """Choose what `config.calibrates` says on rows that are neither trained on nor scored, use
        it in `decode` from now on, and return it by key, for results.json."""
        return {}

    def use_calibration(self, chosen: dict[str, float]) -> None:
        """Use in `decode` what an earlier `calibrate` returned."""

    @abstractmethod
    def decode(self, outputs: Outputs, features: Features, table: Table) -> list[Any]:
        """Return one prediction per row of the table, in a form that JSON can hold."""

    def located(self, predictions: list[Any], table: Table) -> list[Any]:
        """Return the predictions of a table with the characters of the input that they are about,
        for users of the model; by default as they are."""
        return predictions

    @abstractmethod
    def metric_inputs(self, metric: str, predictions: list[Any]) -> dict[str, Any]:
        """Return the arguments `inputs` of `compute(metric, references=..., **inputs)`:
        `predictions` in the form that the metric takes, and the options of the metric.

        `predictions`: the predictions that `decode` returned.
        """

    def row_inputs(self, metric: str, table: Table) -> dict[str, Any]:
        """Return what a metric has to know of the rows that it scores, as further arguments of
        `compute`: for most nothing."""
        return {}

    def official_files(self, predictions: list[Any]) -> dict[str, Any]:
        """Return the predictions in the form that the official script of a data set reads: ending
        of the file name -> JSON content."""
        return {}

    @abstractmethod
    def references(self, table: Table) -> list[Any] | None:
        """Return the labels, one per row, in the form that the metrics take; None when a row has no
        label."""

    @abstractmethod
    def gold(self, table: Table) -> list[Any]:
        """Return the labels, one per row, in the form that a file of predictions shows; None for a
        row without a label."""

    def references_of(self, rows: list[dict[str, Any]]) -> list[Any]:
        """Return the labels of lines of a file of predictions, in the form of `references`. `rows`:
        the lines, each with its `gold`, as `evaluation/predictions.py` writes them."""
        return [row["gold"] for row in rows]

    def clusters(self, table: Table) -> list[Any] | None:
        """Return what rows that are no independent draws have in common, such as the passage that
        questions are about, one value per row; None where rows are drawn one by one. `unit` names
        it."""
        return None

    def describe(self, gold: list[Any]) -> str:
        """Return a short description of labels, in the form that `gold` returns and without None:
        here the number of each."""
        counts = Counter(gold).most_common()
        return ", ".join(f"{label} {count:,}" for label, count in counts[:10]) + (
            f", {len(counts) - 10} more" if len(counts) > 10 else ""
        )

    @abstractmethod
    def majority(self, references: list[Any], metric: str, **rows: Any) -> float:
        """Return the score under `metric` of the best constant prediction for `references` (0 for
        correlations). `rows`: what `row_inputs` returns for the metric."""


def build_tasks(configs: dict[str, Any], text: Text | None = None) -> dict[str, TaskType[Any]]:
    """Return the tasks of a run by name, in the order of the config. `text`: how language models
    answer; None: as by default."""
    tasks: dict[str, TaskType[Any]] = {}
    for name, config in configs.items():
        made = task_types.implementation(config.type)(name, config)
        if config.form == "text":
            from mtlcli.tasks.text_form.task import TextForm

            made = TextForm(made, text or Text())
        tasks[name] = made
    for task in tasks.values():
        task.head_owner = tasks[task.config.head] if task.config.head else None
    return tasks
