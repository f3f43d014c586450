"""Which features go together, in which order, and how they become one rectangle of token ids."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlcli.data.features import Features
from mtlcli.errors import UserError

POOL = 200
"""Batches whose features are sorted by length together, at most: more pads less, fewer mixes
better. On GLUE 50 leave 1.039 padded tokens for a real one, 200 leave 1.013."""
MIXED = 50
"""From more batches than these an epoch has two pools or more, so that a feature does not meet the
same others each time."""


@dataclass(frozen=True)
class InputFormat:
    """How features become rectangles of token ids."""

    pad_id: int
    """What stands in `input_ids` where there is no token."""
    uses_segments: bool
    """Whether the model has segments."""
    multiple: int = 1
    """Widths of batches are rounded up to a multiple of this number. More than 1 where each new
    shape of a batch is dear: see `precision.input_format`."""

    def rounded(self, lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """Return `lengths` rounded up to the multiple, where that is not above `most`; same
        shape."""
        return np.maximum(lengths, np.minimum(-(-lengths // self.multiple) * self.multiple, most))


@dataclass
class Batch:
    """B features, padded on the right to a common width L (see `InputFormat.rounded`)."""

    input_ids: Tensor
    """(B, L) int64."""
    attention_mask: Tensor
    """(B, L) bool: True where there is a token."""
    token_type_ids: Tensor | None
    """(B, L) int64; None for models without segments."""
    columns: dict[str, Tensor]
    """The features' columns: (B,) each."""
    lengths: NDArray[np.int64]
    """(B,): tokens of each feature. In host memory on every device."""
    indices: NDArray[np.int64]
    """(B,): the features' numbers."""
    denominator: float
    """What the summed loss is divided by: labelled items of this task in the whole step (or the sum
    of their weights), over all micro-batches and ranks."""
    pad_id: int
    """What stands in `input_ids` where there is no token."""
    parts: tuple[tuple[str, int], ...] = ()
    """Of a batch of several tasks: whose features follow one another, and how many of each. Empty
    for a batch of one task."""
    examples: float = 1.0
    """Features of this task in the whole step, over all micro-batches and ranks."""
    tokens: bool = True
    """Whether somebody reads the states of all tokens. If not, a backbone may give those of the
    first alone: (B, 1, hidden)."""

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device, to which it is copied while this process goes on."""
        if self.input_ids.device == device:
            return self

        def move(tensor: Tensor) -> Tensor:
            # From memory that may be paged out the driver would copy it first, and this process
            # wait for that.
            tensor = tensor.pin_memory() if device.type == "cuda" else tensor
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            input_ids=move(self.input_ids),
            attention_mask=move(self.attention_mask),
            token_type_ids=None if self.token_type_ids is None else move(self.token_type_ids),
            columns={name: move(column) for name, column in self.columns.items()},
        )

    def pick(self, rows: NDArray[np.int64], length: int) -> Batch:
        """Some of the features, by their place in the batch, none longer than `length`: (len(rows),
        `length`)."""
        places = torch.from_numpy(rows)

        def fit(tensor: Tensor, fill: int) -> Tensor:
            picked = tensor[places, :length]
            return torch.nn.functional.pad(picked, (0, length - picked.shape[1]), value=fill)

        return replace(
            self,
            input_ids=fit(self.input_ids, self.pad_id),
            attention_mask=fit(self.attention_mask, 0),
            token_type_ids=None if self.token_type_ids is None else fit(self.token_type_ids, 0),
            columns={name: column[places] for name, column in self.columns.items()},
            lengths=self.lengths[rows],
            indices=self.indices[rows],
        )


def join(batches: Sequence[tuple[str, Batch]]) -> Batch:
    """Batches of several tasks, of the same width, as one. It has no columns: what belongs to a
    task stays in the task's own batch."""
    every = [batch for _, batch in batches]
    segments = [batch.token_type_ids for batch in every if batch.token_type_ids is not None]
    return Batch(
        input_ids=torch.cat([batch.input_ids for batch in every]),
        attention_mask=torch.cat([batch.attention_mask for batch in every]),
        token_type_ids=torch.cat(segments) if segments else None,
        columns={},
        lengths=np.concatenate([batch.lengths for batch in every]),
        indices=np.concatenate([batch.indices for batch in every]),
        denominator=1.0,
        pad_id=every[0].pad_id,
        parts=tuple((name, len(batch)) for name, batch in batches),
    )


def collate(
    features: Features,
    indices: NDArray[np.int64],
    *,
    input_format: InputFormat,
    denominator: float,
    examples: float | None = None,
    max_tokens: int | None = None,
) -> Batch:
    """The features numbered `indices` as one padded batch. `examples`: of the whole step; None: as
    many as `denominator` says. `max_tokens`: padded tokens to which the width may be rounded up.

    The width never exceeds the longest feature of the split, which the model is known to take.
    """
    starts = features.offsets[indices]
    lengths = features.offsets[indices + 1] - starts
    most = (
        features.longest
        if max_tokens is None
        else min(features.longest, max_tokens // max(1, len(indices)))
    )
    place = np.arange(input_format.rounded(lengths, most).max(initial=0))
    mask = place < lengths[:, None]
    # Beyond a feature's end the gather reads its neighbour's tokens, which the mask replaces;
    # `clip` keeps it in the array.
    ids = features.ids.take(starts[:, None] + place, mode="clip").astype(np.int64)
    ids[~mask] = input_format.pad_id
    segments = None
    if input_format.uses_segments:
        segments = torch.from_numpy(
            ((place >= features.segments[indices][:, None]) & mask).astype(np.int64)
        )
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=segments,
        columns={
            name: torch.from_numpy(column[indices]) for name, column in features.columns.items()
        },
        lengths=lengths,
        indices=indices,
        denominator=denominator,
        pad_id=input_format.pad_id,
        examples=denominator if examples is None else examples,
    )


class Stream:
    """The endless order in which a task's features are met in training.

    A pure function of (seed, epoch): all features are shuffled, each pool of up to POOL batches is
    sorted by length and cut into batches, and the batches are shuffled. Every feature comes exactly
    once an epoch. A batch is closed at `batch_size` features, or before its padded size would pass
    `max_tokens`. The position is the number of batches already consumed since the start; that is
    all there is to save.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        max_tokens: int | None = None,
    ) -> None:
        """lengths: (N,) tokens of each feature. Raises UserError when `max_tokens` cannot hold the
        longest feature."""
        if len(lengths) == 0:
            raise ValueError("a stream needs at least one feature")
        if max_tokens is not None and lengths.max() > max_tokens:
            raise UserError(
                f"{max_tokens} tokens cannot hold the longest input, which has {lengths.max()}",
                where="runner.max_tokens",
                fix="raise it, or lower data.max_length",
            )
        self._lengths = np.asarray(lengths, np.int64)
        self._batch_size = batch_size
        self._max_tokens = max_tokens
        self._seed = seed
        self._ends: list[int] = []  # Position at which each epoch ends, as far as known.
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []

    def batches_in_epoch(self, epoch: int) -> int:
        """Number of batches in an epoch, counted from 0. Epochs may differ when `max_tokens` is
        given."""
        if self._max_tokens is None:
            return -(-len(self._lengths) // self._batch_size)
        return len(self._order(epoch))

    def indices(self, position: int) -> NDArray[np.int64]:
        """(B,) numbers of the features of the batch at `position`, sorted by length.
        `indices(p)[rank::world]` is a rank's share."""
        while not self._ends or position >= self._ends[-1]:
            self._ends.append(
                (self._ends[-1] if self._ends else 0) + self.batches_in_epoch(len(self._ends))
            )
        epoch = bisect_right(self._ends, position)
        start = self._ends[epoch - 1] if epoch else 0
        return self._order(epoch)[position - start]

    def _order(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch; the last one asked for is kept."""
        if epoch != self._epoch:
            random = np.random.default_rng((self._seed, epoch))
            shuffled = random.permutation(len(self._lengths))
            count = -(-len(shuffled) // self._batch_size)
            pools = max(-(-count // POOL), 2 if count > MIXED else 1)
            size = -(-count // pools) * self._batch_size
            batches: list[NDArray[np.int64]] = []
            for start in range(0, len(shuffled), size):
                pool = shuffled[start : start + size]
                pool = pool[np.argsort(self._lengths[pool], kind="stable")]
                batches += self._cut(pool)
            self._batches = [batches[number] for number in random.permutation(len(batches))]
            self._epoch = epoch
        return self._batches

    def _cut(self, pool: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """A pool sorted by length, cut into batches."""
        if self._max_tokens is None:
            return [
                pool[start : start + self._batch_size]
                for start in range(0, len(pool), self._batch_size)
            ]
        lengths = self._lengths[pool]
        batches = []
        start = 0
        while start < len(pool):
            ahead = lengths[start : start + self._batch_size]
            # Size if the batch ended here; it only grows.
            padded = ahead * np.arange(1, len(ahead) + 1)
            count = int(np.searchsorted(padded, self._max_tokens, side="right"))
            batches.append(pool[start : start + count])
            start += count
        return batches


def evaluation_batches(lengths: NDArray[np.int64], *, batch_size: int) -> list[NDArray[np.int64]]:
    """Batches of feature numbers sorted by length, the longest first (so that too little memory
    shows at once); every feature once."""
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def rectangles(lengths: NDArray[np.int64], *, overhead: int, most: int) -> list[NDArray[np.int64]]:
    """Features as groups of near lengths, each a set of places in `lengths` (N,), in order of
    length: those that cost least.

    A group costs its padded tokens and `overhead` tokens more. None of several features has more
    than `most` padded tokens.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = np.asarray(lengths)[order]
    costs = np.zeros(len(order) + 1)  # Of the first n features.
    begins = np.zeros(len(order) + 1, np.int64)  # Where the last group of the first n begins.
    for end in range(1, len(order) + 1):
        longest = ascending[end - 1]
        first = max(0, end - max(1, most // longest))
        each = costs[first:end] + longest * np.arange(end - first, 0, -1)
        best = int(each.argmin())
        costs[end], begins[end] = each[best] + overhead, first + best
    groups = []
    end = len(order)
    while end:
        groups.append(order[begins[end] : end])
        end = begins[end]
    return groups[::-1]
