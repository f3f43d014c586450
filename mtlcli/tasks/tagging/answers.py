"""Tags as answers of a language model (`form=text`): a list of texts and what they are.

Where tags spell entities, the list has the text and type of each entity, as in the outputs of
TANL (Paolini et al. 2021) without the words between them: `Ada: PER; Paris: LOC`. Other tags stand
behind each word: `The: DET; dog: NOUN`. What is read back is compared without case, accents and
white space, which some tokenizers change.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtlcli.data.table import Table
from mtlcli.metrics.entities import OUTSIDE_TAG, entities, spell_entities
from mtlcli.tasks.answers import FreeText, plain

if TYPE_CHECKING:
    from mtlcli.tasks.tagging.task import Tagging

NONE = "none"
"""The answer for a sentence without an entity."""
BETWEEN, IS = "; ", ": "
Pair = tuple[str, str]
"""A text of the sentence and what it is, both as `plain` returns them."""


def tag_answers(task: Tagging) -> TagAnswers:
    """Return how the tags of a task are answers."""
    return EntityAnswers(task) if spell_entities(task.labels) else WordAnswers(task)


class TagAnswers(FreeText):
    """The tags of each sentence as a list of texts and what they are."""

    def __init__(self, task: Tagging) -> None:
        self._task = task

    def texts(self, table: Table) -> list[str | None]:
        rows = zip(self._task.sentences(table), self._task.gold(table), strict=True)
        return [None if tags is None else self.listed(words, tags) for words, tags in rows]

    def from_texts(self, texts: Sequence[str], table: Table) -> list[Any]:
        """Return {"tags": [...]} for each row, with "entities" where the tags spell them. Words
        that the text does not name get O, or else the first tag."""
        return [
            self._task.prediction(words, self.tags(words, _pairs(text)))
            for words, text in zip(self._task.sentences(table), texts, strict=True)
        ]

    @abstractmethod
    def listed(self, words: Sequence[str], tags: Sequence[str]) -> str:
        """Return the answer for the words and tags of a sentence."""

    @abstractmethod
    def tags(self, words: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
        """Return a tag for each word from what an answer lists."""


class WordAnswers(TagAnswers):
    """Each word with its tag."""

    def longest(self, max_length: int) -> int:
        # A word has about as many tokens in the sentence as in the answer, where a colon, a tag
        # and a semicolon follow it.
        return 3 * max_length // 4

    def listed(self, words: Sequence[str], tags: Sequence[str]) -> str:
        return BETWEEN.join(f"{word}{IS}{tag}" for word, tag in zip(words, tags, strict=True))

    def tags(self, words: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
        known = {plain(label): label for label in self._task.labels}
        found = [(text, known[tag]) for text, tag in pairs if tag in known]
        tags = [self._task.other] * len(words)
        if len(found) == len(words):
            return [tag for _, tag in found]
        place, bare = 0, [plain(word) for word in words]
        for text, tag in found:
            # A word that was left out, or written otherwise, costs its own tag alone.
            at = next((each for each in range(place, len(bare)) if bare[each] == text), None)
            if at is not None:
                tags[at], place = tag, at + 1
        return tags


class EntityAnswers(TagAnswers):
    """The text and the type of each entity, in the order of the sentence."""

    def longest(self, max_length: int) -> int:
        return max_length // 2

    def listed(self, words: Sequence[str], tags: Sequence[str]) -> str:
        found = [
            f"{' '.join(words[first : last + 1])}{IS}{kind}" for kind, first, last in entities(tags)
        ]
        return BETWEEN.join(found) or NONE

    def tags(self, words: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
        known = {
            plain(label.partition("-")[2]): label.partition("-")[2]
            for label in self._task.labels
            if label != OUTSIDE_TAG
        }
        tags, place, bare = [OUTSIDE_TAG] * len(words), 0, [plain(word) for word in words]
        for text, kind in pairs:
            if text and kind in known and (span := _find(text, bare, place)) is not None:
                first, last = span
                for at in range(first, last + 1):
                    tags[at] = self._tag(known[kind], begins=at == first, ends=at == last)
                place = last + 1
        return tags

    def _tag(self, kind: str, *, begins: bool, ends: bool) -> str:
        """Return the tag of a word of an entity in the scheme of the task's labels."""
        prefixes = ("SUBI" if ends else "BI") if begins else ("ELIB" if ends else "IB")
        names = set(self._task.labels)
        return next(tag for each in prefixes + "ESLU" if (tag := f"{each}-{kind}") in names)


def _pairs(text: str) -> list[Pair]:
    """Return what an answer lists; parts without a colon are left out."""
    parts = (part.rpartition(IS.strip()) for part in text.split(BETWEEN.strip()))
    return [(plain(name), plain(tag)) for name, colon, tag in parts if colon and tag.strip()]


def _find(text: str, words: Sequence[str], place: int) -> tuple[int, int] | None:
    """Return the first and last of the words, from `place` on, that together are a text."""
    for first in range(place, len(words)):
        joined = ""
        for last in range(first, len(words)):
            joined += words[last]
            if joined == text:
                return first, last
            if not text.startswith(joined):
                break
    return None
