"""The part that all task files in conf/task/ have in common. Each task type adds keys and checks of
its own, in its folder in `mtlcli/tasks/`; `type` tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import Registry, suggest

task_types = Registry("task type", "mtlcli.tasks", group="mtlcli.tasks")


@section
class Source:
    """Where a task's rows come from."""

    kind: Literal["hub", "local", "sample"] | None = None
    """Where the rows of this task come from, independently of the other tasks: `hub`, `local`
    (`path` below `data.root`) or `sample`. Null: `files` if set, else `data.source`."""
    path: str | None = None
    """Folder below `data.root` that holds `<split>.parquet`, `.csv`, `.jsonl.gz`, ...; also the key
    of the built-in sample world."""
    hub: str | None = None
    """Data set on the Hugging Face hub, for example `nyu-mll/glue`. `NAME@REVISION` names a branch,
    a tag or a commit of it; `refs/convert/parquet` is the hub's own copy in parquet of a data set
    that came as a script."""
    hub_config: str | None = None
    """Configuration name on the hub, for example `cola`."""
    files: dict[str, str] | None = None
    """Data of your own: split name -> file (parquet, csv, tsv, jsonl, json, conll, conllu, txt;
    text also as .gz, .bz2, .xz, .zst), a folder of such files, or a pattern such as
    `shards/*.jsonl`. Paths are relative to the folder of the task file that is chosen by its path,
    else to the current folder. Replaces `path` and `hub`."""
    header: Annotated[list[str], MinLen(1)] | None = None
    """Names of the columns, for csv and tsv files whose first line is a row and not a header; null:
    the first line names the columns."""


CALIBRATION = "calibration"
"""The name of the split that `splits.calibration` makes."""


@section
class HoldOut:
    """Rows of the train split that are kept out of training."""

    fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    """Share of the rows to keep out."""
    stratify: bool = True
    """Keep the share of each class, where rows have one. If `group` is set, it has no effect."""
    group: str | None = None
    """Column whose equal values stay on one side, such as the author of a text; null: each row by
    itself."""
    seed: Annotated[int, Ge(0), Le(10**9)] = 0
    """Seed of the draw. It is not the seed of the run, so that runs with different seeds are scored
    on the same rows."""


@section
class Splits:
    """The splits to train, validate and test on."""

    train: str | None = "train"
    """Split to train on; null for a task that is only evaluated."""
    validation: list[str] = field(default_factory=lambda: ["validation"])
    """Splits to validate on; the first gives the task's main score. Metrics of the others carry the
    split's name."""
    test: str | None = None
    """Split for a last evaluation with `mtl eval --split test`; may be without labels."""
    hold_out: HoldOut | None = None
    """Rows of `train` that become the first split of `validation`, for data without a validation
    split; null: each split has rows of its own."""
    calibration: HoldOut | None = None
    """Rows of `train` that are kept out for what is chosen at each evaluation, such as
    `no_answer_threshold: auto`, so that it is not chosen on the rows that are scored; null: none.
    They are drawn from what `hold_out` leaves."""

    def kept_out(self) -> list[tuple[str, str, HoldOut]]:
        """Return (key, split, settings) for each split that is made of rows of `train`, in the
        order in which they are drawn."""
        held = [("hold_out", name, self.hold_out) for name in self.validation[:1]]
        held.append(("calibration", CALIBRATION, self.calibration))
        return [(key, split, settings) for key, split, settings in held if settings is not None]

    def with_fold(self, fold: str | None) -> Splits:
        """Return the splits of a run that scores a fold of train and reads neither validation nor
        test. `fold`: the name of the fold; None: the run has no folds."""
        if fold is None:
            return self
        return replace(self, validation=[] if self.train is None else [fold], test=None)

    @staticmethod
    def occupied(at: str, key: str, split: str) -> Problem:
        """Return the problem that the data has the split that `splits.KEY` would make. `at`: the
        key path of the task."""
        other = "give that split another name"
        if key == "hold_out":
            other = f"give the rows that are kept another name: {at}.splits.validation"
        return Problem(
            f"split '{split}' has rows of its own, and rows of train would take its place",
            f"{at}.splits.{key}",
            f"take it out, or {other}",
        )


@section
class Augment:
    """Changes of the words of training texts. A text that is changed gets one of the changes with a
    rate above 0, drawn anew each time that its row is used."""

    share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of the rows that are changed; the others are used as they are."""
    word_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the words that are hidden behind the tokenizer's token for unknown words (Bowman et
    al. 2016)."""
    swap: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Swaps of two words, as a share of the number of words, at least one (EDA, Wei & Zou 2019)."""
    delete: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the words that are left out (EDA)."""
    insert: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Words of the text that are put into it again, anywhere, as a share of the number of words, at
    least one. EDA inserts synonyms."""

    @property
    def rates(self) -> dict[str, float]:
        """The changes with a rate above 0, and their rates."""
        kinds = ("word_dropout", "swap", "delete", "insert")
        return {kind: getattr(self, kind) for kind in kinds if getattr(self, kind) > 0}


@section
class Template:
    """A prompt and the answers to it, for a task in the form of text."""

    prompt: str
    """The prompt, with the names of columns in braces for the texts of a row. A space and the
    answer follow it."""
    answers: dict[str, str] | None = None
    """Label -> the text that stands for it; null: the label itself, with spaces instead of
    underscores."""


@section
class Task:
    """The keys of tasks of every type."""

    no_text_form: ClassVar[str | None] = "its task type does not say how"
    """Why tasks of the type cannot be put as prompt and answer (`form=text`); None: they can."""
    generated: ClassVar[bool] = False
    """Whether any text can be an answer then, so that answers are generated."""
    own_answers: ClassVar[bool] = False
    """Whether each row then has answers of its own, of which one is right, so that they are scored
    and never generated."""

    needs_both_sides: ClassVar[bool] = False
    """Whether the model has to read what follows a token as well as what precedes it."""
    only_trained: ClassVar[tuple[str, ...]] = (
        *("weight", "batch_size", "lr_factor", "augment"),
        "max_train_rows",
    )
    """Keys that have no effect on a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (
        *("source", "splits", "unlabelled", "head", "metrics", "weight", "batch_size"),
        *("lr_factor", "dropout", "head_layers", "form", "templates", "augment"),
        "max_train_rows",
    )
    """Keys that do not affect the features. All other keys, for example the label set, are part of
    the fingerprint under which features are stored."""
    writes: ClassVar[bool] = False
    """Whether the task's head reads more than the encoded text, such as the text that it learns to
    write. It then has no outputs for the inputs of other tasks."""
    fixed_words: ClassVar[str | None] = "it is not known whether its labels survive other words"
    """Why the words of a text cannot be changed without its label (`augment`); None: they can."""
    mixes: ClassVar[bool] = False
    """Whether the head reads the pooled vector alone, and the label is a number or a distribution,
    so that two rows can be mixed (`augmentation=mixup`)."""
    compares: ClassVar[bool] = False
    """Whether the outputs of two passes over an input can be compared (`TaskType.divergence`)."""
    type: str
    """Task type."""
    source: Source
    """Where the rows come from."""
    splits: Splits = field(default_factory=Splits)
    """The splits to train, validate and test on."""
    unlabelled: Literal["refuse", "skip"] = "refuse"
    """What to do with rows without a label in a split in which other rows have one. `skip`: leave
    them out and report their number, for tables with a label column per task in which a row has
    only some labels. `refuse`: stop before the run starts, and name the first such row."""
    head: str | None = None
    """Name of another task of the run whose head (and labels) this task uses; null for a head of
    its own."""
    metrics: list[str] = field(default_factory=list)
    """Metrics to compute; the first is the main one, which must rise as predictions get better.
    Empty: the defaults of the task type. `evaluate:NAME` is a metric of the package `evaluate`,
    which runs the code of that metric: it must be typed on the command line."""
    weight: Annotated[float, Ge(0), Le(1_000_000)] = 1.0
    """Importance: a factor of the task's loss, with every weighting."""
    batch_size: Annotated[int, Gt(0), Le(1_000_000)] | None = None
    """Examples of this task in a step, over all devices; null: `runner.batch_size`."""
    lr_factor: Annotated[float, Gt(0), Le(1_000_000)] = 1.0
    """Factor of the learning rate of the parameters that belong to this task alone."""
    max_train_rows: Annotated[int, Gt(0), Le(10**12)] | None = None
    """Most rows to use of the task's train split; null: `data.max_train_rows`."""
    dropout: Annotated[float, Ge(0), Lt(1)] | None = None
    """Dropout in the head; null: `model.dropout`, or else the value in the backbone's own
    configuration."""
    head_layers: Annotated[int, Ge(0), Le(100)] | None = None
    """Dense layers with tanh in the head before its output layer; null: one where the backbone has
    no trained pooler, none for spans."""
    max_length: Annotated[int, Ge(8), Le(1_000_000)] | None = None
    """Longest input in tokens, including special tokens; null: `data.max_length`."""
    form: Literal["head", "text"] | None = None
    """How the task is put to the model: with a head of its own (`head`), or as a prompt that a
    language model answers (`text`). Null: the run's `form`."""
    augment: Augment | None = None
    """Changes of the words of training texts; null: none."""
    templates: list[Template] = field(default_factory=list)
    """With `form=text`: the prompts, of which training draws one for each row and epoch;
    evaluation uses the first. Empty: one made of the names of the task and its columns."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        """Yield the problems of values that do not fit together.

        `at`: the task's key path, `tasks.NAME`. `length`: the longest input in tokens, from the key
        `length_key`.
        """
        yield from ()

    def head_problems(self, at: str, other: Task) -> Iterator[Problem]:
        """Yield the reasons why the task cannot use the head of `other`, a task of the same
        type."""
        yield from ()

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        """Yield every key of this type that has no effect beside the other values, why, and what to
        do about it."""
        yield from ()

    @property
    def allowed(self) -> list[Any]:
        """The labels that the config allows, if it restricts them: class names, or the lowest and
        highest score."""
        return []

    @property
    def text_columns(self) -> list[str]:
        """The columns whose texts a prompt can hold."""
        return []

    def text_problems(self, at: str) -> Iterator[Problem]:
        """Yield the reasons why the task cannot be put as prompt and answer."""
        yield from ()

    def head_loss_problems(self, at: str, *keys: str) -> Iterator[Problem]:
        """Yield a problem for each of these keys, which change the loss of a head, that is set."""
        for key in keys:
            if getattr(self, key):
                yield Problem(
                    "has no effect on answers in text, whose loss is over tokens",
                    f"{at}.{key}",
                    "leave it out, or type form=head",
                )

    def answer_problems(self, at: str, labels: Sequence[str]) -> Iterator[Problem]:
        """Yield the problems of the answers that templates give to labels. `labels`: all labels,
        once they are known."""
        for number, template in enumerate(self.templates):
            where = f"{at}.templates[{number}].answers"
            given = template.answers
            if given is None:
                continue
            if not labels:
                yield Problem("the task has no labels to give answers to", where, "leave it out")
                continue
            for label in given:
                if label not in labels:
                    yield Problem(f"there is no label '{label}'", where, suggest(label, labels))
            missing = [label for label in labels if label not in given]
            if missing:
                what = f"there is no answer for the label '{missing[0]}'"
                yield Problem(what, where, f"give one for each of {', '.join(labels[:20])}")
            texts = [text.strip() for text in given.values()]
            if not all(texts) or len(set(texts)) < len(texts):
                yield Problem(
                    "two labels have the same answer, or one has an empty one",
                    where,
                    "give each label a text of its own",
                )

    @property
    def class_column(self) -> str | None:
        """The column with the class of each row, if rows have one; a random draw of rows keeps the
        share of each class."""
        return None

    @property
    def together(self) -> str | None:
        """The column whose equal values mark rows that belong together, such as those of a query;
        a draw of rows never takes them apart."""
        return None

    @property
    def learns_classes(self) -> bool:
        """Whether the classes are read from the train split."""
        return False

    @property
    def calibrates(self) -> bool:
        """Whether something is chosen at each evaluation, on the rows of `splits.calibration`."""
        return False


TextColumn = str | Annotated[list[str], MinLen(1)]
"""The column of a text, or the columns whose texts make it up."""


@section
class TextColumns:
    """The columns of a task on single texts or pairs of texts."""

    text: TextColumn
    """Column with the (first) text; or several, whose texts are joined by a space."""
    text_pair: TextColumn | None = None
    """Column or columns with the second text; null for single texts."""
    label: str = "label"
    """Column with the label or score."""

    @property
    def inputs(self) -> list[str]:
        """The columns that hold the text, or the pair."""
        return [*listed(self.text), *listed(self.text_pair)]


def listed(columns: TextColumn | None) -> list[str]:
    """Return the columns that a key names."""
    return columns if isinstance(columns, list) else [] if columns is None else [columns]


def named_columns(columns: Any) -> list[tuple[str, str]]:
    """Return (key, column) for every column that a task's section of columns names, in the order
    of the keys. A key may name several columns."""
    return [(key, column) for key, value in vars(columns).items() for column in listed(value)]
