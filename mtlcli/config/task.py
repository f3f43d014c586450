"""What the task files in conf/task/ have in common. Each task type adds keys and checks of its own,
in its folder in `mtlcli/tasks/`; `type` tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import Registry

task_types = Registry("task type", "mtlcli.tasks", group="mtl.task_types")


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

    only_trained: ClassVar[tuple[str, ...]] = ("weight", "batch_size", "lr_factor")
    """Keys that do nothing for a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (
        *("source", "splits", "unlabelled", "head", "metrics", "weight", "batch_size"),
        *("lr_factor", "dropout", "head_layers"),
    )
    """Keys that do not affect the features. A key that is not listed, for example the label set, is
    part of the fingerprint under which features are stored."""
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

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        """Yield what is wrong with the values together.

        `at`: the task's place, `tasks.NAME`. `length`: the longest input in tokens, which
        `length_key` says.
        """
        yield from ()

    def head_problems(self, at: str, other: Task) -> Iterator[Problem]:
        """Yield what keeps the task from using the head of `other`, a task of the same type."""
        yield from ()

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        """Yield every key of this type that does nothing beside the other values, why, and what to
        do about it."""
        yield from ()

    @property
    def allowed(self) -> list[Any]:
        """What labels can be, as far as the config says so: class names, or the lowest and highest
        score."""
        return []

    @property
    def class_column(self) -> str | None:
        """The column that holds the class of each row, if rows have one: a draw of rows gives each
        class its share."""
        return None

    @property
    def learns_classes(self) -> bool:
        """Whether the classes are taken from the train split."""
        return False


@section
class TextColumns:
    """Columns of a task on one text or a pair of texts."""

    text: str
    """Column with the (first) text."""
    text_pair: str | None = None
    """Column with the second text; null for single texts."""
    label: str = "label"
    """Column with the label or score."""
