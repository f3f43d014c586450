"""The forms of predictions, by task type. Each is a plain dictionary that JSON can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from typing_extensions import NotRequired


class ClassPrediction(TypedDict):
    """A label of a fixed set (classification, relation)."""

    label: str
    """The most probable label."""
    probabilities: dict[str, float]
    """The probability of each label."""


class LabelsPrediction(TypedDict):
    """Any number of labels (multilabel)."""

    labels: list[str]
    """The labels whose probability reaches the task's threshold."""
    probabilities: dict[str, float]
    """The probability of each label by itself."""


class ScorePrediction(TypedDict):
    """A number (regression)."""

    score: float
    """The number, on the scale of the training rows and not clipped to it."""


class Span(TypedDict):
    """A part of a context."""

    text: str
    """The text."""
    score: float
    """The sum of the logits of its start and its end."""
    answer_start: int
    """The first character in the context, from 0."""


class AnswerPrediction(TypedDict):
    """An answer in a context (span)."""

    id: str
    """The id of the row, or else its number."""
    text: str
    """The answer; empty where there is none."""
    start: int | None
    """The first character of the answer in the context, from 0; None without an answer."""
    end: int | None
    """The character after the last one; None without an answer."""
    score: float
    """The score of the answer."""
    n_best: list[Span]
    """The best answers, the best one first."""
    no_answer: NotRequired[bool]
    """Whether the question has no answer, where the task allows that."""
    no_answer_probability: NotRequired[float]
    """The probability that the question has no answer, where the task allows that."""


class Entity(TypedDict):
    """An entity in a text."""

    type: str
    """The type, for example PER."""
    text: str
    """The text."""
    first: int
    """The number of its first word, from 0."""
    last: int
    """The number of its last word."""
    start: int
    """The first character, from 0: in the text, or in the words joined by spaces if the row gives
    words."""
    end: int
    """The character after the last one."""


class TagsPrediction(TypedDict):
    """A tag for each word (tagging)."""

    tags: list[str]
    """The tags."""
    words: NotRequired[list[str]]
    """The words, where the row gives a text."""
    entities: NotRequired[list[Entity]]
    """The entities that the tags spell, if tags such as B-PER do so."""


class ChoicePrediction(TypedDict):
    """One of several options (choice)."""

    option: int
    """The number of the option, counted from the task's `first_option`."""
    text: str
    """The option."""
    probabilities: list[float]
    """The probability of each option."""


class RankingPrediction(TypedDict):
    """An order of candidates (ranking, where a row holds all candidates of a query)."""

    scores: list[float]
    """The score of each candidate."""
    order: list[int]
    """The places of the candidates, from 0, the best one first."""


class CandidatePrediction(TypedDict):
    """The score of a candidate (ranking, where a row holds one candidate)."""

    query: Any
    """What tells the query from others."""
    score: float
    """The score, which is comparable among the candidates of a query."""


class TextPrediction(TypedDict):
    """A text that the model has written (seq2seq)."""

    text: str
    """The text."""


Prediction = (
    ClassPrediction
    | LabelsPrediction
    | ScorePrediction
    | AnswerPrediction
    | TagsPrediction
    | ChoicePrediction
    | RankingPrediction
    | CandidatePrediction
    | TextPrediction
)
"""The prediction for one row. A task type of your own has a form of its own."""


@dataclass(frozen=True)
class TaskInfo:
    """What a user has to know about a task of a model."""

    name: str
    """The name of the task."""
    type: str
    """The task type: `classification`, `span`, ..."""
    columns: tuple[str, ...]
    """The columns that a row needs, in the order in which a tuple gives their values."""
    optional: tuple[str, ...]
    """The columns that a row may leave out: the id of the row."""
    holds: dict[str, str]
    """What a column holds that is not one text for each row: `texts`, a list of texts; `words`, a
    list of the words of a text; `number`, a whole number."""
    labels: tuple[str, ...] | None
    """The labels in the order of their ids; None where the task has no fixed set."""
    max_length: int
    """The longest input in tokens; what is longer is cut, or read in windows."""
