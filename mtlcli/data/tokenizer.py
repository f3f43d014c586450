"""A fast tokenizer: its tokens, its special tokens, and where it puts them. It is used directly, as
the Python wrapper in transformers takes several times longer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, processors

from mtlcli.data.long import batches, pieces
from mtlcli.errors import UserError

MARKERS = ("[unused{}]", "<extra_id_{}>", "<unused{}>", "<|reserved_special_token_{}|>")
"""The forms of the tokens that vocabularies keep for later uses: BERT, T5, Gemma, Llama."""
RESERVED = tuple(MARKERS[0].format(number) for number in range(1, 5))
"""The markers of two entities in a built-in tokenizer, which has them if its training texts do."""
PAD_TOKENS = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>")
MASK_TOKENS = ("[MASK]", "<mask>")
UNKNOWN_TOKENS = ("[UNK]", "<unk>")
SPACES = ("\u0120", "\u010a", "\u2581")
"""How vocabularies write a space, or a line break, before a word: byte-level, and Metaspace."""


class TextTokenizer:
    """A tokenizer with an end after each text, and the ids of its special tokens."""

    def __init__(
        self,
        tokenizer_json: str,
        *,
        uses_segments: bool,
        model_max_length: int | None = None,
        end_token: str | None = None,
        start_id: int | None = None,
    ) -> None:
        """
        tokenizer_json: the contents of a fast tokenizer's tokenizer.json.
        uses_segments: whether the model takes token type ids.
        model_max_length: the longest input that the model takes, in tokens; None means no bound.
        end_token: the token that is put after each text when the tokenizer itself marks no end
            (GPT-2, Llama), so that there is a border between the texts of a pair, and so that the
            last token has seen everything.
        start_id: the token id from which the model's own decoder starts; None means that the model
            has no decoder.

        Raises ValueError when `tokenizer_json` cannot be read, UserError when the tokenizer marks
        no end and does not have `end_token`, or numbers the segments in an unusual way.
        """
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # The library raises no narrower class.
            raise ValueError(f"no tokenizer.json: {str(error)[:100]}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.uses_segments = uses_segments
        self.model_max_length = model_max_length
        if not self._marks_end():
            if end_token is None or self._tokenizer.token_to_id(end_token) is None:
                raise UserError(
                    f"the tokenizer marks no end of a text, and has no end token ({end_token})",
                    where="model.name",
                    fix="choose a model whose tokenizer has an eos or sep token",
                )
            self._add_end(end_token)
        self.vocabulary_size: int = (
            max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        )
        self.pad_id: int = self._find_pad(tokenizer_json, end_token)
        self._dtype = np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32
        self._read_template()
        self.before, self.after = self._around_single()
        known = map(self._tokenizer.token_to_id, MASK_TOKENS)
        self.mask_id = next((found for found in known if found is not None), None)
        """The token id that hides a token, in masked language modelling; None: there is none."""
        self.special_ids = self._find_special()
        """The token ids that stand for no text, such as [CLS] and [UNK]: (special tokens,)."""
        self.end_id = int(self.after[-1])
        """The token id with which a text that is to be written ends."""
        self.start_id = (
            start_id
            if start_id is not None
            else int(self.before[0])
            if len(self.before)
            else self.end_id
        )
        """The token id from which a decoder starts to write a text: the model's own, or else the
        one that the tokenizer puts before each text, or else the one that it puts after."""
        parts = [tokenizer_json, uses_segments, model_max_length, end_token, start_id]
        self.fingerprint: str = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        """A SHA-256 that changes whenever the token ids may change."""

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer.json of the tokenizer as it is used here, with an end after each text."""
        found: str = self._tokenizer.to_str()
        return found

    @cached_property
    def unknown_id(self) -> int | None:
        """The token id that stands for an unknown word, or hides a token where there is none; None:
        there is neither."""
        known = map(self._tokenizer.token_to_id, UNKNOWN_TOKENS)
        return next((found for found in known if found is not None), self.mask_id)

    @cached_property
    def continues(self) -> NDArray[np.bool_] | None:
        """Which tokens go on with the word before them, by id: (vocabulary,). None: the vocabulary
        marks neither the beginning of words nor what follows it.

        WordPiece marks what follows (`##ing`); byte-level and Metaspace vocabularies mark the space
        before a word, and there a token without letters or digits is a word of its own.
        """
        settings = json.loads(self._tokenizer.to_str())
        prefix = settings["model"].get("continuing_subword_prefix")
        names = self._tokenizer.get_vocab(with_added_tokens=True)
        found = np.zeros(self.vocabulary_size, bool)
        marks = [mark for mark in SPACES if any(name.startswith(mark) for name in names)]
        if not prefix and not marks:
            return None
        for name, number in names.items():
            if prefix:
                found[number] = name.startswith(prefix)
            else:
                found[number] = not name.startswith(tuple(marks)) and any(
                    character.isalnum() for character in name
                )
        found[self.special_ids] = False
        return found

    def tokens(
        self, texts: Iterable[str]
    ) -> dict[str, tuple[NDArray, NDArray[np.int32], NDArray[np.int32]]]:
        """Return, for each distinct text, the token ids, the first character of each token and the
        character after its last one, without special tokens."""
        distinct = list(dict.fromkeys(texts))
        whole = [(text, *piece) for text in distinct for piece in pieces(text)]
        parts: dict[str, list[tuple[NDArray, NDArray[np.int32]]]] = {text: [] for text in distinct}
        for rows in batches([piece for _, _, piece in whole]):
            encodings = self._tokenizer.encode_batch(
                [piece for _, _, piece in whole[rows]], add_special_tokens=False
            )
            for (text, start, _), encoding in zip(whole[rows], encodings, strict=True):
                places = np.array(encoding.offsets, np.int32).reshape(-1, 2) + start
                parts[text].append((np.array(encoding.ids, self._dtype), places))
        tokens = {}
        for text, found in parts.items():
            ids, places = map(np.concatenate, zip(*found, strict=True))
            tokens[text] = (ids, places[:, 0], places[:, 1])
        return tokens

    def only(self, text: str) -> NDArray:
        """Return the token ids of a text without special tokens: (tokens,)."""
        return self.tokens([text])[text][0]

    def texts_of(self, rows: list[list[int]]) -> list[str]:
        """Return the texts of sequences of token ids, without special tokens."""
        return [
            text.strip() for text in self._tokenizer.decode_batch(rows, skip_special_tokens=True)
        ]

    def limit(self, max_length: int) -> int:
        """Return `max_length`, or the longest input that the model takes if that is less."""
        return (
            max_length if self.model_max_length is None else min(max_length, self.model_max_length)
        )

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _marks_end(self) -> bool:
        """Return whether the tokenizer puts a special token after a text."""
        return self._tokenizer.encode("a").special_tokens_mask[-1] == 1

    def _add_end(self, end: str) -> None:
        """Set the template to `start A end` and `start A end B end`, with the start tokens that the
        tokenizer has already."""
        encoding = self._tokenizer.encode("a")
        start = [
            token
            for token, special in zip(encoding.tokens, encoding.special_tokens_mask, strict=True)
            if special
        ]
        old = json.loads(self._tokenizer.to_str())["post_processor"]
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=[*start, "$A", end],
            pair=[*start, "$A", end, "$B", end],
            special_tokens=[(token, self._tokenizer.token_to_id(token)) for token in {*start, end}],
        )
        # Byte-level tokenizers also have a step here that trims the space off the offsets. Keep it,
        # and replace the old template only.
        steps = [] if old is None else old.get("processors", [old])
        settings = json.loads(self._tokenizer.to_str())
        kept = [step for step in steps if step["type"] == "ByteLevel"]
        settings["post_processor"] = {
            "type": "Sequence",
            "processors": [*kept, settings["post_processor"]],
        }
        self._tokenizer = Tokenizer.from_str(json.dumps(settings))

    def _find_pad(self, tokenizer_json: str, end_token: str | None) -> int:
        """Return the id of the padding token. Any id would do, as padding is masked: a tokenizer
        without a padding token pads with its end token or with id 0."""
        padding = json.loads(tokenizer_json).get("padding")
        if padding is not None:
            return int(padding["pad_id"])
        names = [*PAD_TOKENS, end_token] if end_token else PAD_TOKENS
        return next(
            (found for name in names if (found := self._tokenizer.token_to_id(name)) is not None), 0
        )

    def _find_special(self) -> NDArray[np.int64]:
        """Return the ids of all special tokens, in order: (special tokens,)."""
        added = self._tokenizer.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        special.update(map(int, [*self._prefix, *self._middle, *self._suffix, self.pad_id]))
        if self.mask_id is not None:
            special.add(self.mask_id)
        return np.array(sorted(special), np.int64)

    def _read_template(self) -> None:
        """Find out which special tokens stand before, between and after the texts of a pair, and
        where segment 1 starts."""
        encoding = self._tokenizer.encode("a", "a")
        which = encoding.sequence_ids
        first, second = which.index(0), which.index(1)
        after_first = len(which) - which[::-1].index(0)
        after_second = len(which) - which[::-1].index(1)
        ids = np.array(encoding.ids, self._dtype)
        self._prefix, self._middle, self._suffix = (
            ids[:first],
            ids[after_first:second],
            ids[after_second:],
        )
        kinds = encoding.type_ids
        if self.uses_segments and (kinds != sorted(kinds) or max(kinds) > 1):
            raise UserError(
                f"the tokenizer numbers the segments of a pair {kinds}; only 0s and then 1s can be "
                "used",
                where="model.name",
                fix="choose another model",
            )
        self._has_segments = self.uses_segments and 1 in kinds
        self._middle_in_second = second - kinds.count(0)

    def _around_single(self) -> tuple[NDArray, NDArray]:
        """Return the special tokens before and after a single text."""
        encoding = self._tokenizer.encode("a")
        which = encoding.sequence_ids
        ids = np.array(encoding.ids, self._dtype)
        return ids[: which.index(0)], ids[len(which) - which[::-1].index(0) :]
