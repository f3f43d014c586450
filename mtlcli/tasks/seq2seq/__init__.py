"""The options of sequence-to-sequence tasks: a text that is written for a text (translation,
summaries, answers). The task itself is in task.py. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from mtlcli.config.section import section
from mtlcli.config.task import Task, task_types
from mtlcli.errors import Problem

GENERATION = ("beams", "length_penalty", "sample", "temperature", "top_p", "max_new_tokens")
"""Keys that say how texts are written."""
DECODER = ("decoder_layers", "decoder_heads", "decoder_width")
"""Keys that say how large a decoder is that begins from scratch."""


@section
class Seq2SeqColumns:
    """The columns of a sequence-to-sequence task. `translation.de` is the field `de` of the objects
    in the column `translation`, or, in a table without such a column, the column `de`."""

    text: str = "text"
    """Column with the text that is read."""
    target: str = "target"
    """Column with the text that is to be written."""


@task_types.register("seq2seq", ".task:Seq2Seq")
@section
class Seq2SeqTask(Task):
    """Sequence to sequence: write a text for a text (translation, summaries, ...)."""

    only_trained: ClassVar[tuple[str, ...]] = (*Task.only_trained, "label_smoothing")
    """Keys that have no effect on a task that is not trained."""
    not_encoded: ClassVar[tuple[str, ...]] = (
        *Task.not_encoded,
        *GENERATION,
        *DECODER,
        "label_smoothing",
    )
    """Keys that do not affect the features."""
    no_text_form: ClassVar[None] = None
    """None: the target is the answer."""
    generated: ClassVar[bool] = True
    """True: any text can be a target."""
    writes: ClassVar[bool] = True
    """Whether the task's head writes texts."""
    fixed_words: ClassVar[str | None] = "the text that is to be written follows its words"
    """Why the words of a text cannot be changed without its label."""
    type: Literal["seq2seq"] = "seq2seq"
    """Task type."""
    columns: Seq2SeqColumns = field(default_factory=Seq2SeqColumns)
    """Column names."""
    prefix: str = ""
    """Text to put before each input, for example `translate German to English: ` as in T5."""
    max_target_length: Annotated[int, Ge(8), Le(100_000)] = 128
    """Longest target in tokens, including special tokens; what is beyond is cut and counted."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each target token to spread evenly over the vocabulary in the loss (Szegedy et al.
    2016)."""
    max_new_tokens: Annotated[int, Gt(0), Le(100_000)] | None = None
    """Longest text that is written, in tokens; null: `max_target_length`."""
    beams: Annotated[int, Gt(0), Le(1000)] = 1
    """Beams of the beam search; 1: greedy, always the most likely next token."""
    length_penalty: float = 1.0
    """With several beams: exponent of the length by which a beam's log likelihood is divided; above
    1 longer texts win, below 1 shorter ones."""
    sample: bool = False
    """Draw each next token by its probability. The same weights draw the same texts again."""
    temperature: Annotated[float, Gt(0), Le(100)] = 1.0
    """With sample: divisor of the logits; below 1 likely tokens become more likely."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """With sample: draw among the most likely tokens that together have this probability (Holtzman
    et al. 2020)."""
    decoder_layers: Annotated[int, Gt(0), Le(1000)] | None = None
    """Layers of a decoder from scratch; null: 2, or the decoder of the model if it has one."""
    decoder_heads: Annotated[int, Gt(0), Le(1000)] | None = None
    """Attention heads of a decoder from scratch; null: as many as have 64 numbers or more each."""
    decoder_width: Annotated[int, Gt(0), Le(1_000_000)] | None = None
    """Width of the feed-forward blocks of a decoder from scratch; null: 4 times that of the
    backbone's states."""

    @property
    def longest(self) -> int:
        """The number of tokens that the decoder has to take."""
        return max(self.max_target_length, self.max_new_tokens or 0)

    def head_problems(self, at: str, other: Task) -> Iterator[Problem]:
        assert isinstance(other, Seq2SeqTask)
        for key in DECODER:
            if getattr(self, key) not in (None, getattr(other, key)):
                yield Problem(
                    f"the decoder is that of '{self.head}', which has another one",
                    f"{at}.{key}",
                    f"leave it out, or give it in tasks.{self.head}.{key}",
                )
        if self.longest > other.longest:
            yield Problem(
                f"the decoder of '{self.head}' takes {other.longest} tokens, and this task has up "
                f"to {self.longest}",
                f"{at}.max_target_length",
                f"type tasks.{self.head}.max_target_length={self.longest}, or a lower value here",
            )

    @property
    def text_columns(self) -> list[str]:
        return [self.columns.text]

    def text_problems(self, at: str) -> Iterator[Problem]:
        yield from self.answer_problems(at, [])
        yield from self.head_loss_problems(at, "label_smoothing")

    def idle(self, at: str) -> Iterator[tuple[str, str, str]]:
        if self.form == "text":
            for key in (*GENERATION[:-1], *DECODER):
                yield (
                    f"{at}.{key}",
                    "the task has no decoder of its own (form=text)",
                    "leave it out; text.beams and text.sample say how answers are written",
                )
            return
        if self.beams == 1:
            yield f"{at}.length_penalty", "there is one beam", f"leave it out, or type {at}.beams=4"
        if not self.sample:
            for key in ("temperature", "top_p"):
                yield (
                    f"{at}.{key}",
                    "the most likely token is written",
                    f"leave it out, or type {at}.sample=true",
                )
        yield (
            f"{at}.head_layers",
            "a decoder has no dense layers before its output",
            "leave it out",
        )
