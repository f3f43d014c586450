"""What a task file in conf/task/ can say. One dataclass per task type; `type` tells them apart."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from mtlcli.config.section import section
from mtlcli.registry import Registry

task_types = Registry("task type")

Weight = Annotated[float, Gt(0)]


@section
class Source:
    """Where a task's rows come from."""

    kind: Literal["hub", "local", "sample"] | None = None
    """Where the rows of this task come from, whatever the other tasks use: `hub`, `local` (`path`
    below `data.root`) or `sample`. Null: `files` if they are given, else what `data.source` says.
    """
    path: str | None = None
    """Folder below `data.root` that holds `<split>.parquet`, `.csv`, `.jsonl.gz`, ...; also the key
    of the built-in sample world."""
    hub: str | None = None
    """Data set on the Hugging Face hub, for example `nyu-mll/glue`."""
    hub_config: str | None = None
    """Configuration name on the hub, for example `cola`."""
    files: dict[str, str] | None = None
    """Own data: split name -> file (parquet, csv, tsv, jsonl, json; text also as .gz, .bz2, .xz,
    .zst). Relative to the folder where `mtl` is typed. Takes the place of `path` and `hub`."""


@section
class Splits:
    """Which split plays which part."""

    train: str | None = "train"
    """Split to train on; null for a task that is only evaluated."""
    validation: list[str] = field(default_factory=lambda: ["validation"])
    """Splits to validate on; the first gives the task's main score. Metrics of the others carry the
    split's name."""
    test: str | None = None
    """Split for a last evaluation with `mtl eval --split test`; may be without labels."""


@section
class Task:
    """What every task has, whatever its type."""

    type: str
    """Task type."""
    source: Source
    """Where the rows come from."""
    splits: Splits = field(default_factory=Splits)
    """Which split plays which part."""
    unlabelled: Literal["refuse", "skip"] = "refuse"
    """What becomes of rows without a label in a split in which other rows have one. `skip`: they
    are left out and counted, as in a table with a label column for each task of which a row has
    some. `refuse`: the first of them is named, and nothing starts."""
    head: str | None = None
    """Name of another task of the run whose head (and labels) this task uses; null for a head of
    its own."""
    metrics: list[str] = field(default_factory=list)
    """Metrics to compute; the first is the main one, which must rise as predictions get better.
    Empty: the defaults of the task type. `evaluate:NAME` is a metric of the package `evaluate`,
    whose code is run: it has to be typed on the command line."""
    weight: Annotated[float, Ge(0), Le(1_000_000)] = 1.0
    """Importance: multiplies the task's term in the total loss under every weighting."""
    batch_size: Annotated[int, Gt(0), Le(1_000_000)] | None = None
    """Examples of this task in a step, over all devices; null: `runner.batch_size`."""
    lr_factor: Annotated[float, Gt(0), Le(1_000_000)] = 1.0
    """Multiplies the learning rate of the parameters that belong to this task alone."""
    dropout: Annotated[float, Ge(0), Lt(1)] | None = None
    """Dropout in the head; null: `model.dropout`, or else what the backbone's own configuration
    says."""
    head_layers: Annotated[int, Ge(0), Le(100)] | None = None
    """Dense layers with tanh in the head before its output layer; null: one where the backbone has
    no trained pooler, none for spans."""
    max_length: Annotated[int, Ge(8), Le(1_000_000)] | None = None
    """Longest input in tokens, special tokens included; null: `data.max_length`."""


@section
class TextColumns:
    """Columns of a task on one text or a pair of texts."""

    text: str
    """Column with the (first) text."""
    text_pair: str | None = None
    """Column with the second text; null for single texts."""
    label: str = "label"
    """Column with the label or score."""


@task_types.register("classification", "mtlcli.tasks.classification:Classification")
@section
class ClassificationTask(Task):
    """One label out of a fixed set for a text or a pair of texts."""

    type: Literal["classification"] = "classification"
    """Task type."""
    columns: TextColumns
    """Column names."""
    labels: Annotated[list[str], MinLen(2)] | None = None
    """Class names in the order of their ids. The label column holds ids or names. Null: the names
    that the train file itself has for its ids (`ClassLabel`), else the sorted distinct values of
    the train split."""
    label_ids: bool | None = None
    """Whether whole numbers in the label column are ids: places in `labels`, counted from 0. Null:
    only where no class name is a whole number; a run whose classes come from the train split
    settles on false."""
    class_weights: (
        Literal["balanced"] | Annotated[list[Weight], MinLen(2)] | dict[str, Weight] | None
    ) = None
    """What each class weighs in the loss: a number for each class in the order of the ids, or a
    mapping from class names to numbers, where classes that it leaves out weigh 1. `balanced`:
    inversely to the class's rows in the train split, rows / (classes * rows of the class). The mean
    is over the weights of the rows. Null: all alike."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """The share of a row's label that is spread evenly over all classes in the loss (Szegedy et al.
    2016)."""


@task_types.register("regression", "mtlcli.tasks.regression:Regression")
@section
class RegressionTask(Task):
    """One real number for a text or a pair of texts."""

    type: Literal["regression"] = "regression"
    """Task type."""
    columns: TextColumns
    """Column names."""
    range: Annotated[list[Annotated[float, Ge(-1e30), Le(1e30)]], MinLen(2)] | None = None
    """Lowest and highest valid score; rows outside are refused. Null: any finite number."""


@section
class SpanColumns:
    """Columns of extractive question answering, as in SQuAD."""

    id: str = "id"
    """Column with the question's unique id."""
    question: str = "question"
    """Column with the question."""
    context: str = "context"
    """Column with the text that holds the answer."""
    answers: str = "answers"
    """Column with {text: [...], answer_start: [...]}; empty lists say that there is no answer."""


@task_types.register("span", "mtlcli.tasks.span:Span")
@section
class SpanTask(Task):
    """Extractive question answering: the answer is a span of the context (SQuAD 1.1 and 2.0)."""

    type: Literal["span"] = "span"
    """Task type."""
    columns: SpanColumns = field(default_factory=SpanColumns)
    """Column names."""
    max_length: Annotated[int, Ge(8), Le(1_000_000)] | None = 384
    """Longest window in tokens, question and special tokens included; null: `data.max_length`."""
    no_answer: bool = False
    """Whether questions may have no answer (SQuAD 2.0)."""
    stride: Annotated[int, Ge(0)] = 128
    """Tokens that two neighbouring windows over a long context share."""
    max_question_length: Annotated[int, Ge(1)] = 64
    """Longest question in tokens; what is beyond is cut and counted."""
    max_answer_length: Annotated[int, Ge(1)] = 30
    """Longest predicted answer in tokens."""
    n_best: Annotated[int, Ge(1)] = 20
    """Best spans of a question that its prediction lists."""
    no_answer_threshold: float = 0.0
    """Predict no answer when (score of no answer - score of the best span) is above this."""
