"""The tokenizer of models from scratch: a WordPiece vocabulary, trained on the tasks' texts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from mtlcli.data.long import LONG
from mtlcli.data.tokenizer import RESERVED

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

_built: dict[str, str] = {}
"""The tokenizer.json of each tokenizer that this process has trained, by what it was trained on.
The jobs of a sweep run in one process and mostly train a tokenizer on the same texts."""


def build_tokenizer(texts: Iterable[str], vocabulary_size: int) -> str:
    """Return the tokenizer.json of an uncased BERT tokenizer whose WordPiece vocabulary is trained
    on `texts`. The same texts give the same tokenizer.

    [PAD] has id 0. The vocabulary has at most `vocabulary_size` entries. Only the most frequent
    characters (1000, or a quarter of a small vocabulary) are kept; the others become [UNK]. The
    words of `RESERVED` are entries as they are. Only the first LONG characters of a text are used.
    For the same arguments a process trains only once.
    """
    digest = hashlib.sha256(str(vocabulary_size).encode())
    chunks: Counter[str] = Counter()
    for text in texts:
        beginning = text[:LONG]
        # As JSON strings, so that different lists of texts never give the same bytes.
        digest.update(json.dumps(beginning).encode())
        chunks.update(beginning.split())
    key = digest.hexdigest()
    if key not in _built:
        _built[key] = _build_tokenizer(chunks, vocabulary_size)
    return _built[key]


def _build_tokenizer(chunks: Counter[str], vocabulary_size: int) -> str:
    """Train a tokenizer on what stands between white space in the texts, with its number."""
    normalizer, pre_tokenizer = (
        normalizers.BertNormalizer(lowercase=True),
        pre_tokenizers.BertPreTokenizer(),
    )
    words: Counter[str] = Counter()
    reserved = [name for name in RESERVED if chunks.pop(name, 0)]
    for chunk, count in chunks.items():
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(chunk)):
            words[word] += count
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    kept = sorted(characters, key=lambda character: (-characters[character], character))[
        : min(1000, vocabulary_size // 4)
    ]
    alphabet = set(kept)
    words = Counter({word: count for word, count in words.items() if alphabet.issuperset(word)})
    # A million words are enough to rank the pieces of words.
    scale = max(1, words.total() // 1_000_000)
    # The trainer numbers the `##` characters in the order of a hash map, which differs from run to
    # run, and their numbers break ties between pieces. Passed as special tokens, which are numbered
    # first, they have a fixed order.
    continuing = sorted({"##" + character for word in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *reserved, *continuing],
        initial_alphabet=sorted({word[0] for word in words}),
        show_progress=False,
    )
    training = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    training.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    training.train_from_iterator(
        (" ".join([word] * (count // scale)) for word, count in sorted(words.items())), trainer
    )
    vocabulary = json.loads(training.to_str())["model"]["vocab"]

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = (
        normalizer,
        pre_tokenizer,
        decoders.WordPiece(),
    )
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer.to_str()
