"""Encoding of text as token ids: texts, pairs, windows over long texts, sentences of words."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mtlcli.data.features import Features, Sequences
from mtlcli.data.long import LONG, batches, pieces
from mtlcli.data.long import cut as cut_text
from mtlcli.data.table import NAMED
from mtlcli.data.tokenizer import MARKERS, TextTokenizer
from mtlcli.errors import UserError


class TextEncoder(TextTokenizer):
    """An encoder that turns texts, pairs of texts and windows over long texts into token ids."""

    def encode(self, texts: list[str], pairs: list[str] | None, max_length: int) -> Features:
        """Return one feature for each text, or for each pair of texts, cut to `max_length` tokens.
        The longer text of a pair is cut first.

        A text of more than LONG characters is tokenised only as far as its tokens are used; the
        tokens are the same. columns: `row`. notes: `truncated`, the number of inputs that were cut.
        """
        limit = self.limit(max_length)
        if pairs is not None:
            return self._encode_pairs(texts, pairs, limit)
        texts = [cut_text(text, limit, self._count) for text in texts]
        self._tokenizer.enable_truncation(limit)
        ids: list[NDArray[np.unsignedinteger]] = []
        lengths: list[int] = []
        truncated = 0
        for part in batches(texts):
            encodings = self._tokenizer.encode_batch_fast(texts[part])
            sizes = [len(encoding) for encoding in encodings]
            # A list of ids at a time, since Python would search many lists for garbage.
            rows = (encoding.ids for encoding in encodings)
            ids.append(np.fromiter(chain.from_iterable(rows), self._dtype, sum(sizes)))
            lengths += sizes
            truncated += sum(
                size == limit and bool(encoding.overflowing)
                for size, encoding in zip(sizes, encodings, strict=True)
            )
        self._tokenizer.no_truncation()
        return self._features(ids, lengths, lengths, truncated)

    def _encode_pairs(self, texts: list[str], pairs: list[str], limit: int) -> Features:
        """Encode pairs of texts. The two texts are tokenised apart and joined here, because the
        tokenizer's own pairs would also hold what is cut off, in every combination of the two
        texts' ends."""
        both = [self._cut_pair(text, pair, limit) for text, pair in zip(texts, pairs, strict=True)]
        prefix, middle, suffix = self._prefix.tolist(), self._middle.tolist(), self._suffix.tolist()
        room = limit - len(prefix) - len(middle) - len(suffix)
        before_second = len(prefix) + len(middle) - self._middle_in_second
        ids: list[NDArray[np.unsignedinteger]] = []
        lengths: list[int] = []
        segments: list[int] = []
        truncated = 0
        for part in batches(*zip(*both, strict=True)):
            encodings = self._tokenizer.encode_batch_fast(
                [text for pair in both[part] for text in pair], add_special_tokens=False
            )
            found = [encoding.ids for encoding in encodings]
            rows = []
            for first, second in zip(found[::2], found[1::2], strict=True):
                kept = _longest_first(len(first), len(second), room)
                rows.append([*prefix, *first[: kept[0]], *middle, *second[: kept[1]], *suffix])
                segments.append(before_second + kept[0] if self._has_segments else len(rows[-1]))
                truncated += len(first) + len(second) > room
            sizes = [len(row) for row in rows]
            ids.append(np.fromiter(chain.from_iterable(rows), self._dtype, sum(sizes)))
            lengths += sizes
        return self._features(ids, lengths, segments, truncated)

    def _cut_pair(self, text: str, pair: str, limit: int) -> tuple[str, str]:
        """Cut off the parts of two texts that are too far behind to be used. The text with more
        tokens keeps more, since it is the one that truncation shortens first."""
        if len(text) <= LONG and len(pair) <= LONG:
            return text, pair
        if len(text) > LONG and len(pair) > LONG:
            first, second = (
                sum(self._count(piece) for _, piece in pieces(each)) for each in (text, pair)
            )
        else:
            first, second = len(text), len(pair)
        shorter, longer = (text, pair) if first <= second else (pair, text)
        short = cut_text(shorter, limit, self._count)
        long = cut_text(longer, max(limit, self._count(short) + 1), self._count)
        return (short, long) if first <= second else (long, short)

    def windows(
        self,
        questions: list[str],
        contexts: list[str],
        *,
        max_length: int,
        stride: int,
        max_question_length: int,
    ) -> Features:
        """Return the features of pairs of question and context. A context that does not fit is cut
        into windows, and neighbouring windows share `stride` tokens.

        Every token of a context is in at least one window. columns: `row`; `context_start` and
        `context_end`, the token positions of the context inside the feature (end exclusive).
        token_columns: `char_start` and `char_end`, the characters of the context that the token
        covers, or -1 for a token outside the context. notes: `questions cut`, and `windows`, the
        number of windows beyond one per row. Raises UserError when `max_question_length` leaves no
        more room for the context than the stride.
        """
        limit = self.limit(max_length)
        room = (
            limit - len(self._prefix) - len(self._middle) - len(self._suffix) - max_question_length
        )
        if room <= stride:
            raise UserError(
                f"a window of {limit} tokens has {max(room, 0)} left for the context after "
                f"{max_question_length} for the question, "
                f"and it shares {stride} with the next window: it would hold nothing new",
                fix="raise tasks.NAME.max_length, or lower tasks.NAME.stride or "
                "tasks.NAME.max_question_length",
            )
        beginnings = [
            cut_text(question, max_question_length, self._count) for question in questions
        ]
        question_tokens = self.tokens(beginnings)
        context_tokens = self.tokens(contexts)
        outside = np.full(
            max(len(self._prefix) + len(self._middle) + max_question_length, len(self._suffix)),
            -1,
            np.int32,
        )
        parts: list[NDArray] = []
        starts: list[NDArray] = []
        ends: list[NDArray] = []
        spans: list[tuple[int, int, int]] = []  # row, context_start, context_end
        cut: list[int] = []
        for row, (question, context) in enumerate(zip(beginnings, contexts, strict=True)):
            question_ids = question_tokens[question][0]
            if len(question_ids) > max_question_length:
                cut.append(row)
            question_ids = question_ids[:max_question_length]
            context_ids, char_start, char_end = context_tokens[context]
            head = len(self._prefix) + len(question_ids) + len(self._middle)
            size = limit - head - len(self._suffix)
            for first in range(0, max(len(context_ids) - stride, 1), size - stride):
                window = slice(first, first + size)
                length = len(context_ids[window])
                parts += [
                    self._prefix,
                    question_ids,
                    self._middle,
                    context_ids[window],
                    self._suffix,
                ]
                starts += [outside[:head], char_start[window], outside[: len(self._suffix)]]
                ends += [outside[:head], char_end[window], outside[: len(self._suffix)]]
                spans.append((row, head, head + length))
        columns = np.array(spans, np.int64).reshape(-1, 3)
        lengths = columns[:, 2] + len(self._suffix)
        return Features(
            ids=np.concatenate(parts) if parts else np.zeros(0, self._dtype),
            offsets=_offsets(lengths),
            segments=(
                columns[:, 1] - self._middle_in_second if self._has_segments else lengths
            ).astype(np.int32),
            columns={
                "row": columns[:, 0],
                "context_start": columns[:, 1],
                "context_end": columns[:, 2],
            },
            token_columns={
                "char_start": np.concatenate(starts) if starts else np.zeros(0, np.int32),
                "char_end": np.concatenate(ends) if ends else np.zeros(0, np.int32),
            },
            notes={"questions cut": len(cut), "windows": len(columns) - len(questions)},
            noted={"questions cut": cut[:NAMED]},
        )

    def in_pieces(self, texts: list[str], max_length: int) -> Features:
        """Return the features of texts, of which those with more than `max_length` tokens are cut
        into pieces: each token is in exactly one. columns: `row`."""
        room = self.limit(max_length) - len(self.before) - len(self.after)
        tokens = self.tokens(texts)
        ids: list[NDArray] = []
        rows: list[int] = []
        for row, text in enumerate(texts):
            found = tokens[text][0]
            for begin in range(0, max(len(found), 1), room):
                ids += [self.before, found[begin : begin + room], self.after]
                rows.append(row)
        return self._of_threes(ids, rows)

    def words(self, sentences: list[list[str]], *, max_length: int, stride: int) -> Features:
        """Return the features of sentences that are given as lists of words. A sentence that does
        not fit is cut into windows, and neighbouring windows share `stride` tokens.

        The words are joined by spaces, so that the tokens are those of running text. columns:
        `row`. token_columns: `word`, the number of a word (from 0) at its first token, and -1 at
        all other tokens. Of the tokens that two windows share, the first half counts in the first
        window and the rest in the second, so that each word is found once. notes: `windows`, the
        number of windows beyond one per row, and `words without a token`. Raises UserError when a
        window would hold nothing new.
        """
        limit = self.limit(max_length)
        prefix, suffix = self.before, self.after
        room = limit - len(prefix) - len(suffix)
        if room <= stride:
            raise UserError(
                f"a window of {limit} tokens has room for {max(room, 0)} of the text, and it "
                f"shares {stride} with the next window: it would hold nothing new",
                fix="raise tasks.NAME.max_length, or lower tasks.NAME.stride",
            )
        tokens = self.tokens(map(" ".join, sentences))
        ids: list[NDArray] = []
        numbers: list[NDArray] = []
        rows: list[int] = []
        without = 0
        for row, words in enumerate(sentences):
            found, starts, ends = tokens[" ".join(words)]
            first_of = _first_tokens(words, starts, ends)
            without += len(words) - int(np.count_nonzero(first_of >= 0))
            for begin in range(0, max(len(found) - stride, 1), room - stride):
                window = slice(begin, begin + room)
                own = first_of[window].copy()
                if begin:
                    own[: stride // 2] = -1
                if begin + room < len(found):
                    own[room - (stride - stride // 2) :] = -1
                ids += [prefix, found[window], suffix]
                numbers += [np.full(len(prefix), -1), own, np.full(len(suffix), -1)]
                rows.append(row)
        return replace(
            self._of_threes(ids, rows),
            token_columns={
                "word": np.concatenate(numbers).astype(np.int32)
                if numbers
                else np.zeros(0, np.int32)
            },
            notes={"windows": len(rows) - len(sentences), "words without a token": without},
        )

    def _of_threes(self, ids: list[NDArray], rows: list[int]) -> Features:
        """Return features of one segment each. `ids`: for each, the tokens before its text, of its
        text and behind it. `rows`: the row of each."""
        lengths = [sum(map(len, ids[start : start + 3])) for start in range(0, len(ids), 3)]
        return Features(
            ids=np.concatenate(ids) if ids else np.zeros(0, self._dtype),
            offsets=_offsets(lengths),
            segments=np.array(lengths, np.int32),
            columns={"row": np.array(rows, np.int64)},
        )

    def targets(self, texts: list[str | None], max_length: int) -> tuple[Sequences, int]:
        """Return the token ids of texts that a decoder is to write, and the number of texts that
        were cut to `max_length` tokens, the end token included. None has no tokens.

        A text has the special tokens that the tokenizer puts around a single text, except for the
        one that the decoder starts from.
        """
        before = self.before[1:] if self.start_id in self.before[:1] else self.before
        room = max_length - len(before) - len(self.after)
        given = [cut_text(text, room, self._count) for text in texts if text is not None]
        found: list[list[int]] = []
        for part in batches(given):
            found += [
                encoding.ids
                for encoding in self._tokenizer.encode_batch_fast(
                    given[part], add_special_tokens=False
                )
            ]
        written = iter(found)
        nothing: NDArray[np.unsignedinteger] = np.zeros(0, self._dtype)
        rows = [
            nothing
            if text is None
            else np.concatenate([before, np.array(next(written)[:room], self._dtype), self.after])
            for text in texts
        ]
        ids: NDArray[np.unsignedinteger] = np.concatenate(rows) if rows else nothing
        sequences = Sequences(ids, _offsets([len(row) for row in rows]))
        return sequences, sum(len(row) > room for row in found)

    def marked(
        self, texts: list[str], entities: list[tuple[tuple[int, int], ...]], max_length: int
    ) -> Features:
        """Return one feature for each text, with markers around each of two entities.

        entities: for each text the characters (begin, end) of the first and the second entity. A
        marker is one of the tokens that vocabularies keep for such uses, [unused1] of BERT for
        example, or, where there are none, text such as <e1>. columns: `row`; `first` and `second`,
        the token positions of the markers before the entities. Of a text that does not fit, the
        tokens around the entities are kept. notes: `truncated`, the number of such texts.
        """
        limit, tokenizer = self.limit(max_length), Tokenizer.from_str(self._tokenizer.to_str())
        marks = self._marks(tokenizer)
        ids: list[NDArray] = []
        places: list[tuple[int, int]] = []
        room, truncated = limit - len(self.before) - len(self.after), 0
        written: list[str] = []
        characters: list[tuple[int, int]] = []
        for text, spans in zip(texts, entities, strict=True):
            # Where one entity ends and the other begins, the marker of the end comes first.
            cuts = sorted(
                (at, place == 0, marks[2 * number + place])
                for number, span in enumerate(spans)
                for place, at in enumerate(span)
            )
            whole, last, at_of = "", 0, {}
            for at, _, mark in cuts:
                whole += text[last:at] + " "
                at_of[mark] = len(whole)
                whole += f"{mark} "
                last = at
            written.append(whole + text[last:])
            characters.append((at_of[marks[0]], at_of[marks[2]]))
        for part in batches(written):
            encodings = tokenizer.encode_batch(written[part], add_special_tokens=False)
            for encoding, begins in zip(encodings, characters[part], strict=True):
                ends = np.array([end for _, end in encoding.offsets])
                found = [int(np.searchsorted(ends, begin, side="right")) for begin in begins]
                kept = _around(len(ends), found, room)
                truncated += len(kept) < len(ends)
                tokens = np.array(encoding.ids, self._dtype)[kept]
                ids.append(np.concatenate([self.before, tokens, self.after]))
                first, second = (
                    int(np.searchsorted(kept, place)) + len(self.before) for place in found
                )
                places.append((first, second))
        lengths = [len(row) for row in ids]
        features = self._features(ids, lengths, lengths, truncated)
        where = np.array(places, np.int64).reshape(-1, 2)
        features.columns |= {"first": where[:, 0], "second": where[:, 1]}
        return features

    def _marks(self, tokenizer: Tokenizer) -> list[str]:
        """Return the four markers of two entities, which `tokenizer` keeps whole from now on if its
        vocabulary has tokens for such uses."""
        for family in MARKERS:
            names = [family.format(number) for number in range(1, 5)]
            if all(tokenizer.token_to_id(name) is not None for name in names):
                tokenizer.add_special_tokens(names)
                return names
        return ["<e1>", "</e1>", "<e2>", "</e2>"]

    def _features(
        self, ids: list[NDArray], lengths: list[int], segments: list[int], truncated: int
    ) -> Features:
        return Features(
            ids=np.concatenate(ids) if ids else np.zeros(0, self._dtype),
            offsets=_offsets(lengths),
            segments=np.array(segments, np.int32),
            columns={"row": np.arange(len(lengths), dtype=np.int64)},
            notes={"truncated": truncated},
        )


def _first_tokens(
    words: list[str], starts: NDArray[np.int32], ends: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Return for each token of the words, joined by spaces, the number of the word that begins
    with it, or -1: (tokens,).

    `starts`, `ends`: the characters that the tokens cover. Some tokenizers count the space before a
    word as a part of its first token.
    """
    sizes = np.array([len(word) for word in words], np.int64)
    word_ends = np.cumsum(sizes + 1) - 1
    # A token that begins at the space after a word belongs to the next word.
    word = np.searchsorted(word_ends, starts, side="right")
    covers = (ends > starts) & (word < len(words))
    covers &= ends > (word_ends - sizes)[np.minimum(word, len(words) - 1)]
    found = np.full(len(starts), -1, np.int64)
    tokens = np.flatnonzero(covers)
    numbers, places = np.unique(word[tokens], return_index=True)
    found[tokens[places]] = numbers
    return found


def _around(count: int, places: list[int], room: int) -> NDArray[np.int64]:
    """Return the numbers, in order, of at most `room` of `count` tokens, among them those at two
    places and what stands around them: one window if both fit into it, else one at each."""
    if count <= room:
        return np.arange(count)
    low, high = sorted(places)
    # More of what stands after a place is kept than before it, since the entity does.
    if high - low <= room * 3 // 4:
        begin = min(max(0, low - (room - (high - low)) // 3), count - room)
        return np.arange(begin, begin + room)
    half = room // 2
    begin = min(max(low + half, high - half // 4), count - (room - half))
    begin = min(begin, high)
    return np.concatenate([np.arange(low, low + half), np.arange(begin, begin + room - half)])


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the number of tokens that are kept of each of two texts. The longer text is cut until
    both have the same length, then both are cut. If `room` is odd, the longer text keeps one token
    more; of two texts of equal length, the second does."""
    if first + second <= room:
        return first, second
    if min(first, second) <= room // 2:
        return (first, room - first) if first <= second else (room - second, second)
    return (room // 2, room - room // 2) if first <= second else (room - room // 2, room // 2)


def _offsets(lengths: Any) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
