"""Cutting of texts that are too long to be tokenised at once, as a tokenizer takes some hundred
bytes of memory for each character."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

LONG = 1 << 16
"""Length in characters above which a text is cut before it is tokenised, where only its first
tokens are used."""
MOST = 1 << 22
"""Number of characters that are searched for these first tokens, and the most characters that are
tokenised at once."""
PIECE = 1 << 20
"""Length in characters of the pieces in which a text is tokenised, where all of its tokens are
used."""
MARGIN = 128
"""Number of tokens before a cut that the cut may change: a WordPiece word has up to 100
characters."""
ROWS = 8192
"""The most texts that are tokenised at once: an Encoding takes a few kilobytes, far more than the
token ids that are kept."""


def cut(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """Return a beginning of the text that has the same first `tokens` tokens, or the whole text if
    it is short.

    count: a function that returns the number of tokens of a text. If the first MOST characters have
    too few tokens (one endless word, or only white space), exactly these characters are returned.
    """
    size = LONG
    while size < min(len(text), MOST):
        beginning = text[: _border(text, 0, size)]
        if count(beginning) >= tokens + MARGIN:
            return beginning
        size *= 4
    return text[:MOST]


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yield (position of the first character, piece) for each piece of a text. The tokens of the
    pieces, one after another, are the tokens of the whole text."""
    start = 0
    while len(text) - start > PIECE:
        end = _border(text, start, start + PIECE)
        yield start, text[start:end]
        start = end
    yield start, text[start:]


def batches(*columns: Sequence[str]) -> Iterator[slice]:
    """Yield slices of rows to be tokenised at once, limited in their number of rows and of
    characters."""
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
    """Return where to cut the text: before the last white space in the second half of
    text[start:end], since a word is tokenised together with the space before it; at `end` if there
    is no white space."""
    middle = (start + end) // 2
    space = text.rfind(" ", middle, end)
    place = space if space > 0 else max(text.rfind(mark, middle, end) for mark in "\n\t\r")
    return place if place > 0 else end
