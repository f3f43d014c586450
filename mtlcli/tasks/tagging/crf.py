"""A linear-chain conditional random field over the words of a sentence (Lafferty et al. 2001; on a
neural encoder: Lample et al. 2016).

The score of a sequence of tags is the sum of the words' emissions, which are the logits of the
head, and of a transition for each pair of neighbouring tags. Both ends of the sequence count as a
boundary, a tag of its own, which comes after all others in the matrix of transitions: with T tags,
(T + 1, T + 1), row = the tag before, column = the tag after. The last row has the scores of the
first tag, the last column those of the last tag; the score in the corner is never used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from mtlcli.data.features import NO_TARGET
from mtlcli.metrics.entities import OUTSIDE_TAG, has_ends, may_follow
from mtlcli.tasks.heads import TokenHead


class ChainHead(TokenHead):
    """A head that gives the emissions of each token, and has the transitions between tags. These
    begin at 0, with which the loss is the cross entropy of the words one by one."""

    def __init__(
        self, hidden: int, outputs: int, dropout: float, *, layers: int, std: float = 0.02
    ) -> None:
        """`outputs`: the number of tags. `layers`: the number of dense tanh layers before the
        output layer."""
        super().__init__(hidden, outputs, dropout, layers=layers, std=std)
        self.transitions = nn.Parameter(torch.zeros(outputs + 1, outputs + 1))


def chain_loss(emissions: Tensor, tags: Tensor, transitions: Tensor) -> Tensor:
    """Return the negative log likelihood of the tags, summed over the chains of a batch: scalar.

    emissions: (batch, length, T). tags: (batch, length), NO_TARGET where no word begins; the other
    places of an input, in their order, are its chain. transitions: (T + 1, T + 1). The partition
    function is that of the forward algorithm. Nothing is read back from the device.
    """
    boundary = emissions.shape[-1]
    # The words of each input move to the left, without the places between them.
    order = (tags == NO_TARGET).to(torch.uint8).argsort(dim=1, stable=True)
    tags = tags.gather(1, order)
    word = tags != NO_TARGET
    emissions = emissions.gather(1, order.unsqueeze(2).expand_as(emissions))
    emissions = emissions.masked_fill(~word.unsqueeze(2), 0)

    own = emissions.gather(2, tags.clamp(min=0).unsqueeze(2)).squeeze(2)
    ends = tags.masked_fill(~word, boundary)
    before, after = pad(ends, (1, 0), value=boundary), pad(ends, (0, 1), value=boundary)
    moves = embedding(before, transitions).gather(2, after.unsqueeze(2)).squeeze(2)
    moves = moves.masked_fill((before == boundary) & (after == boundary), 0)
    score = own.sum(1) + moves.sum(1)

    inner = transitions[:boundary, :boundary]
    # The sum over all sequences that end in a tag, as a logarithm: (batch, T).
    forward = transitions[boundary, :boundary] + emissions[:, 0]
    for place in range(1, emissions.shape[1]):
        onward = (forward.unsqueeze(2) + inner).logsumexp(1) + emissions[:, place]
        forward = torch.where(word[:, place].unsqueeze(1), onward, forward)
    total = (forward + transitions[:boundary, boundary]).logsumexp(1)
    return (total - score).masked_fill(~word[:, 0], 0).sum()


def forbidden(labels: Sequence[str]) -> NDArray[np.bool_]:
    """Return which transitions BIO, or BIOES or BILOU, does not allow, by what the tags have:
    (T + 1, T + 1). The boundary is like a word outside of all entities."""
    tags, ends = [*labels, OUTSIDE_TAG], has_ends(labels)
    return np.array([[not may_follow(one, other, ends=ends) for other in tags] for one in tags])


def best_tags(
    emissions: NDArray, sentences: NDArray[np.int64], transitions: NDArray
) -> NDArray[np.int64]:
    """Return the most likely tags of each sentence as a whole, by Viterbi's algorithm: (words,).

    emissions: (words, T). sentences: (words,), the sentence of each word, in order. transitions:
    (T + 1, T + 1), -inf where a transition must not be.
    """
    found = np.zeros(len(emissions), np.int64)
    edges = [0, *(np.flatnonzero(np.diff(sentences)) + 1).tolist(), len(emissions)]
    for start, end in zip(edges, edges[1:], strict=False):
        if end > start:
            found[start:end] = _viterbi(emissions[start:end], transitions)
    return found


def _viterbi(emissions: NDArray, transitions: NDArray) -> list[int]:
    """Return the most likely tags of one sentence of one word or more."""
    inner, (first, last) = transitions[:-1, :-1], (transitions[-1, :-1], transitions[:-1, -1])
    score = first + emissions[0]
    origins = []
    for emission in emissions[1:]:
        paths = score[:, None] + inner
        origins.append(paths.argmax(axis=0))
        score = paths.max(axis=0) + emission
    best = [int((score + last).argmax())]
    for origin in reversed(origins):
        best.append(int(origin[best[-1]]))
    return best[::-1]
