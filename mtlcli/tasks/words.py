"""Changes of the words of training texts, drawn anew each time that a row is used.

Wei & Zou 2019, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text
Classification Tasks": a text gets one of a few operations, drawn at random. Of its w words,

    swap      two words change places, n = max(1, floor(rate w)) times
    delete    each word is left out with probability rate; one at least is kept
    insert    n = max(1, floor(rate w)) words are put in at random places

and, from Bowman et al. 2016, "Generating Sentences from a Continuous Space",

    word_dropout   each word is replaced by the token for unknown words with probability rate;
                   one at least is kept

Differences from EDA:
- EDA puts in, or exchanges, synonyms out of WordNet, which is of English alone and which NLTK has
  to download. Here a word of the text itself is put in again, and words are not exchanged.
- EDA writes some changed copies of each row beside it. Here `share` of the rows are changed each
  time, in another way in each epoch, and the others stay as they are.
- Words are those of the tokenizer: a punctuation mark of a WordPiece vocabulary is one, and
  elsewhere it belongs to the word before it. The texts of a pair are changed each by itself, by the
  same operation.

What is drawn for a row depends on the seed of the batch and the number of the row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtlcli.config.task import Augment

if TYPE_CHECKING:
    from mtlcli.data.batches import Batch
    from mtlcli.data.encoder import TextEncoder

Random = np.random.Generator
WIDTHS = 8
"""A batch whose texts have grown is padded to a multiple of this width."""


def changed(
    batch: Batch, augment: Augment, encoder: TextEncoder, seed: tuple[int, ...], longest: int
) -> Batch:
    """Return a batch in host memory in which the words of some texts are changed. `longest`: the
    most tokens of an input; words are put in only as far as they fit."""
    import torch

    ids = batch.input_ids.numpy()
    kept: list[NDArray[np.int64]] = []  # The places of the tokens of each changed row.
    hidden: list[NDArray[np.bool_]] = []
    for row, (length, index) in enumerate(
        zip(batch.lengths.tolist(), batch.indices.tolist(), strict=True)
    ):
        random = np.random.default_rng((*seed, index))
        places, hide = np.arange(length), np.zeros(length, bool)
        if random.random() < augment.share:
            kind = list(augment.rates)[random.integers(len(augment.rates))]
            places, hide = _changed_row(
                ids[row, :length], encoder, kind, augment.rates[kind], random, longest
            )
        kept.append(places)
        hidden.append(hide)
    lengths = np.array([len(places) for places in kept], np.int64)
    width = ids.shape[1]
    if lengths.max(initial=0) > width:
        width = min(longest, -(-int(lengths.max()) // WIDTHS) * WIDTHS)
    places = np.zeros((len(batch), width), np.int64)
    hide = np.zeros((len(batch), width), bool)
    for row, (chosen, hides) in enumerate(zip(kept, hidden, strict=True)):
        places[row, : len(chosen)], hide[row, : len(chosen)] = chosen, hides
    mask = np.arange(width) < lengths[:, None]
    moved = np.take_along_axis(ids, places, axis=1)
    if encoder.unknown_id is not None:
        moved[hide] = encoder.unknown_id
    moved[~mask] = batch.pad_id
    segments = batch.token_type_ids
    if segments is not None:
        segments = torch.from_numpy(np.take_along_axis(segments.numpy(), places, axis=1) * mask)
    return replace(
        batch,
        input_ids=torch.from_numpy(moved),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=segments,
        lengths=lengths,
    )


def _changed_row(
    ids: NDArray[np.int64],
    encoder: TextEncoder,
    kind: str,
    rate: float,
    random: Random,
    longest: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the places in `ids` of the tokens that an input is made of after one operation, and
    which of them are hidden."""
    texts = _texts(ids, encoder)
    places: list[NDArray[np.int64]] = []
    hidden: list[NDArray[np.bool_]] = []
    done = 0
    room = max(0, longest - len(ids))
    for begin, words in texts:
        end = words[-1][-1] + 1
        order, hide = OPERATIONS[kind](len(words), rate, random)
        if kind == "insert":
            order = _fitting(order, [len(word) for word in words], room)
            room -= sum(len(words[number]) for number in order) - (end - begin)
            hide = np.zeros(len(order), bool)
        places += [np.arange(done, begin), *(words[number] for number in order)]
        hidden += [np.zeros(begin - done, bool)]
        hidden += [np.full(len(words[n]), hides) for n, hides in zip(order, hide, strict=True)]
        done = end
    places.append(np.arange(done, len(ids)))
    hidden.append(np.zeros(len(ids) - done, bool))
    return np.concatenate(places), np.concatenate(hidden)


def _texts(
    ids: NDArray[np.int64], encoder: TextEncoder
) -> list[tuple[int, list[NDArray[np.int64]]]]:
    """Return the texts of an input, which special tokens enclose: the place of the first token of
    each, and the places of the tokens of each of its words."""
    special = np.isin(ids, encoder.special_ids) & (ids != encoder.unknown_id)
    border = np.flatnonzero(special)
    texts = []
    for begin, end in zip([0, *border + 1], [*border, len(ids)], strict=True):
        if begin < end:
            # Where tokens do not tell, each is a word.
            inside = np.zeros(end - begin, bool)
            if encoder.continues is not None:
                inside[1:] = encoder.continues[ids[begin + 1 : end]]
            texts.append((int(begin), np.split(np.arange(begin, end), np.flatnonzero(~inside)[1:])))
    return texts


def _fitting(order: NDArray[np.int64], sizes: list[int], room: int) -> NDArray[np.int64]:
    """Return the words of a text to which words were added, without those that exceed the `room`
    in tokens. `sizes`: the number of tokens of each word."""
    kept, seen = [], set()
    for number in order.tolist():
        if number in seen:
            if sizes[number] > room:
                continue
            room -= sizes[number]
        seen.add(number)
        kept.append(number)
    return np.array(kept, np.int64)


Operation = Callable[[int, float, Random], tuple[NDArray[np.int64], NDArray[np.bool_]]]
"""From a number of words and a rate to the numbers of the words that a text is made of afterwards,
in order, and which of them are hidden."""


def swapped(words: int, rate: float, random: Random) -> tuple[NDArray, NDArray]:
    """Let two words change places, again and again."""
    order = np.arange(words)
    for _ in range(max(1, int(rate * words)) if words > 1 else 0):
        pair = random.choice(words, 2, replace=False)
        order[pair] = order[pair[::-1]]
    return order, np.zeros(words, bool)


def deleted(words: int, rate: float, random: Random) -> tuple[NDArray, NDArray]:
    """Leave words out."""
    order = np.flatnonzero(~_chosen(words, rate, random))
    return order, np.zeros(len(order), bool)


def inserted(words: int, rate: float, random: Random) -> tuple[NDArray, NDArray]:
    """Put words of the text into it again."""
    order = list(range(words))
    for _ in range(max(1, int(rate * words))):
        order.insert(int(random.integers(len(order) + 1)), int(random.integers(words)))
    return np.array(order, np.int64), np.zeros(len(order), bool)


def dropped(words: int, rate: float, random: Random) -> tuple[NDArray, NDArray]:
    """Hide words."""
    return np.arange(words), _chosen(words, rate, random)


def _chosen(words: int, rate: float, random: Random) -> NDArray[np.bool_]:
    """Return which words are chosen, each with probability `rate`, but never all."""
    chosen: NDArray[np.bool_] = random.random(words) < rate
    if chosen.all():
        chosen[random.integers(words)] = False
    return chosen


OPERATIONS: dict[str, Operation] = {
    "word_dropout": dropped,
    "swap": swapped,
    "delete": deleted,
    "insert": inserted,
}
"""The operations by the keys of their rates."""
