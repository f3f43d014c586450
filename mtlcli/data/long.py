"""Texts that are too long to be tokenised at once: a tokenizer takes some hundred bytes of memory
for each character."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

LONG = 1 << 16
"""Characters of a text that is cut before it is tokenised, where only its first tokens are used."""
MOST = 1 << 22
"""Characters of a text that are looked at for these tokens, and of all texts that are tokenised at
once."""
PIECE = 1 << 20
"""Characters of the pieces that a text is tokenised in, where all of its tokens are used."""
MARGIN = 128
"""Tokens before a cut that may come out otherwise without it: a word of WordPiece has up to 100
characters."""
ROWS = 8192
"""Texts that are tokenised at once: an Encoding takes a few kilobytes, far more than the ids that
are kept of it."""


def cut(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """A beginning of a text that has the same first `tokens` tokens, or the text itself where it is
    short.

    count: the number of tokens of a text. Of a text that has fewer tokens in its first MOST
    characters (a word or white space without end) only these are kept.
    """
    size = LONG
    while size < min(len(text), MOST):
        beginning = text[: _border(text, 0, size)]
        if count(beginning) >= tokens + MARGIN:
            return beginning
        size *= 4
    return text[:MOST]


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """(first character, piece) of the pieces of a text; the tokens of all pieces are those of the
    text."""
    start = 0
    while len(text) - start > PIECE:
        end = _border(text, start, start + PIECE)
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def batches(*columns: Sequence[str]) -> Iterator[slice]:
    """Slices of rows that are tokenised at once, by their number and their characters."""
    start = characters = 0
    for row, texts in enumerate(zip(*columns, strict=True)):
        length = sum(map(len, texts))
        if row > start and (row - start == ROWS or characters + length > MOST):
            yield slice(start, row)
            start, characters = row, 0
        characters += length
    if columns[0]:
        yield slice(start, len(columns[0]))


def _border(text: str, start: int, end: int) -> int:
    """Where to cut: before the last white space in the second half of text[start:end], as a word
    takes the space before it along; at `end` where there is none."""
    middle = (start + end) // 2
    space = text.rfind(" ", middle, end)
    place = space if space > 0 else max(text.rfind(mark, middle, end) for mark in "\n\t\r")
    return place if place > 0 else end
