"""The options of tagging tasks: one tag for each word of a sentence. The task itself is in task.py.
Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Lt, MinLen

from mtlcli.config.section import section
from mtlcli.config.task import Task, task_types
from mtlcli.errors import Problem
from mtlcli.tasks.classification import Weight, weight_problems

SPECIAL_TOKENS = 3
"""The most special tokens that a tokenizer puts around a text."""


@section
class TaggingColumns:
    """The columns of a task of tagging."""

    words: str = "tokens"
    """Column with the list of a sentence's words."""
    label: str = "tags"
    """Column with the list of the words' tags, as many as words."""


@task_types.register("tagging", ".task:Tagging")
@section
class TaggingTask(Task):
    """Tagging: one tag for each word of a sentence (parts of speech, named entities, ...)."""

    only_trained: ClassVar[tuple[str, ...]] = (
        *Task.only_trained,
        *("class_weights", "label_smoothing", "focal_gamma"),
    )
    """Keys that have no effect on a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (
        *Task.not_encoded,
        *("class_weights", "label_smoothing", "focal_gamma", "crf", "constrained"),
    )
    """Keys that do not affect the features."""
    fixed_words: ClassVar[str | None] = "each word has a tag"
    """Why the words of a text cannot be changed without its label."""
    no_text_form: ClassVar[None] = None
    """None: the answer lists the entities, or each word with its tag."""
    generated: ClassVar[bool] = True
    """True: such a list is a text of any length."""
    type: Literal["tagging"] = "tagging"
    """Task type."""
    columns: TaggingColumns = field(default_factory=TaggingColumns)
    """Column names."""
    labels: Annotated[list[str], MinLen(2)] | None = None
    """Tags in the order of their ids. The label column holds lists of ids or of tags. Null: the
    names in the train file (`ClassLabel`), else the sorted distinct tags of the train split."""
    stride: Annotated[int, Ge(0)] | None = None
    """Number of tokens that two neighbouring windows over a long sentence share; null: a quarter of
    the longest input."""
    class_weights: (
        Literal["balanced"] | Annotated[list[Weight], MinLen(2)] | dict[str, Weight] | None
    ) = None
    """Weight of each tag in the loss: a list in the order of the ids, or a mapping from tags to
    numbers (1 for the others). `balanced`: inversely proportional to the tag's words in train,
    words / (tags * words of the tag). The loss is the weighted mean over words. Null: equal
    weights."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each word's tag to spread evenly over all tags in the loss (Szegedy et al. 2016)."""
    focal_gamma: Annotated[float, Ge(0)] = 0.0
    """Exponent of the focal loss (Lin et al. 2017): the loss of a word is multiplied by
    (1 - p)^gamma, where p is the probability of its tag. 0: the plain loss."""
    crf: bool = False
    """Whether the tags of a sentence are a chain, a linear-chain CRF (Lafferty et al. 2001; Lample
    et al. 2016): the head has a score for each pair of neighbouring tags, the loss is the negative
    log likelihood of all tags of an input together, and the most likely sequence is predicted."""
    constrained: bool = False
    """Whether only sequences of tags are predicted that BIO, or BIOES or BILOU, allows: no I-PER
    after O or B-LOC, for example. Not for tags in IOB1, where I-PER may follow O."""

    def problems(self, at: str, length: int, length_key: str) -> Iterator[Problem]:
        if self.labels and len(set(self.labels)) < len(self.labels):
            yield Problem(
                "a tag is listed twice",
                f"{at}.labels",
                "give every tag once, in the order of the ids",
            )
        if self.labels and not self.head:
            yield from weight_problems(self.class_weights, f"{at}.class_weights", self.labels)
        if self.crf and (self.class_weights or self.label_smoothing or self.focal_gamma):
            yield Problem(
                "class_weights, label_smoothing and focal_gamma change the loss of single words, "
                "and the loss of a chain is that of all its words together",
                f"{at}.crf",
                f"leave them out, or type {at}.crf=false",
            )
        if self.stride is not None and length - SPECIAL_TOKENS <= self.stride:
            yield Problem(
                f"{length_key}={length} leaves nothing new in a window: neighbouring windows share "
                f"{self.stride} tokens",
                f"{at}.stride",
                f"raise {at}.max_length, or lower {at}.stride",
            )

    def text_problems(self, at: str) -> Iterator[Problem]:
        yield from self.answer_problems(at, [])
        yield from self.head_loss_problems(
            at, "class_weights", "label_smoothing", "focal_gamma", "crf"
        )

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        if self.form == "text":
            for key in ("stride", "constrained"):
                yield f"{at}.{key}", "the tags are generated (form=text)", "leave it out"

    @property
    def text_columns(self) -> list[str]:
        """The column of the words, which a space joins."""
        return [self.columns.words]

    def head_problems(self, at: str, other: Task) -> Iterator[Problem]:
        if self.labels and self.labels != other.allowed:
            yield Problem(
                f"the tags differ from those of '{self.head}', whose head the task uses",
                f"{at}.labels",
                "leave them out",
            )
        if isinstance(other, TaggingTask) and self.crf != other.crf:
            yield Problem(
                f"the value differs from that of '{self.head}', whose head the task uses",
                f"{at}.crf",
                f"type {at}.crf={str(not self.crf).lower()}",
            )

    @property
    def allowed(self) -> list[Any]:
        return self.labels or []

    @property
    def learns_classes(self) -> bool:
        return self.head is None and self.labels is None
