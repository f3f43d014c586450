"""Prompts: templates, in which the texts of a row take the places of columns, and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.text import template_pieces
from mtlcli.data.encoder import TextEncoder
from mtlcli.errors import UserError

TARGET = "answer"
"""The token target: at each token before one of the answer, the id of the token that follows."""
PROMPT = "prompt"
"""The column with the number of a feature's tokens before the answer."""
FEWEST = 8
"""The fewest tokens that a prompt has room for."""
BEFORE_ANSWER = "answer:"
"""What stands before an answer when its tokens are looked for. Tokenizers split texts at spaces, so
that any other word would do."""


@dataclass(frozen=True)
class Prompt:
    """A template of a prompt."""

    pieces: tuple[tuple[str, str | None], ...]
    """Pieces of text, each with the column whose text follows it, or None."""

    @classmethod
    def read(cls, template: str) -> Prompt:
        """Return the prompt of a template with the names of columns in braces. Raises ValueError
        when braces are not in pairs, or hold more than a name."""
        return cls(tuple(template_pieces(template)))

    @classmethod
    def generic(cls, name: str, columns: Sequence[str]) -> Prompt:
        """Return a prompt that names the task and each of its columns, as those of T5 (Raffel et
        al. 2020, appendix D)."""
        pieces: list[tuple[str, str | None]] = []
        for number, column in enumerate(columns):
            pieces.append((f"{name if number == 0 else ''} {column}: ".lstrip(), column))
            if number:
                pieces[-1] = (f" {column}: ", column)
        return cls((*pieces, (f" {BEFORE_ANSWER}", None)))

    @property
    def columns(self) -> list[str]:
        """The columns that the prompt names."""
        return [column for _, column in self.pieces if column is not None]

    @property
    def template(self) -> str:
        """The prompt with the names of columns in braces."""
        return self.text({column: f"{{{column}}}" for column in self.columns})

    def text(self, texts: Mapping[str, str]) -> str:
        """Return the prompt with the texts of a row, by column."""
        return "".join(
            text + ("" if column is None else texts[column]) for text, column in self.pieces
        )


def prompt_tokens(
    prompt: Prompt, columns: Mapping[str, Sequence[str]], encoder: TextEncoder, rooms: Sequence[int]
) -> Iterator[tuple[NDArray, bool]]:
    """Yield the token ids of the prompt of each row, without special tokens and at most as many as
    it has room for, and whether one of the row's texts was cut for it. `columns`: the texts of the
    columns that the prompt names; `rooms`: the room of each row.

    The longest text is cut first, at its end, so that the template stays whole. Raises UserError
    when the template alone is too long.
    """
    rows = [
        dict(zip(columns, texts, strict=True)) for texts in zip(*columns.values(), strict=True)
    ] or [{} for _ in rooms]
    whole = [prompt.text(texts) for texts in rows]
    tokens = encoder.tokens(whole)
    for texts, text, room in zip(rows, whole, rooms, strict=True):
        ids = tokens[text][0]
        cut = len(ids) > room
        while len(ids) > room:
            texts = _shorter(texts, len(ids) - room, encoder)
            ids = encoder.only(prompt.text(texts))
        yield ids, cut


def _shorter(texts: dict[str, str], tokens: int, encoder: TextEncoder) -> dict[str, str]:
    """Return the texts of a row of which the longest has lost some of its last tokens, one or
    more."""
    found = encoder.tokens(texts.values())
    longest = max(texts, key=lambda column: len(found[texts[column]][0]), default=None)
    if longest is None or not texts[longest]:
        raise UserError(
            "the template of a prompt leaves no room for the row's texts",
            fix="raise data.max_length or tasks.NAME.max_length, or shorten the template",
        )
    _, _, ends = found[texts[longest]]
    kept = max(0, len(ends) - tokens)
    return texts | {longest: texts[longest][: int(ends[kept - 1])] if kept else ""}


def answer_tokens(texts: Sequence[str], encoder: TextEncoder) -> list[NDArray]:
    """Return the token ids of each answer as it stands behind a prompt, after a space, with the
    token that ends it."""
    found = encoder.tokens(f"{BEFORE_ANSWER} {text}" for text in texts)
    answers = []
    for text in texts:
        ids, _, ends = found[f"{BEFORE_ANSWER} {text}"]
        answers.append(np.append(ids[ends > len(BEFORE_ANSWER)], ids.dtype.type(encoder.end_id)))
    return answers


def without_ends(choices: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the tokens of each choice that are scored: its end counts only where some choice is
    the beginning of another, since it tells them apart there."""
    bare = [list(choice[:-1]) for choice in choices]
    nested = any(one is not other and other[: len(one)] == one for one in bare for other in bare)
    return [list(choice) for choice in choices] if nested else bare


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where sequences of these lengths (n,) begin in a flat array, and where the last one
    ends: (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
