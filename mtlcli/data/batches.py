"""The choice of the features that make up a batch, their order, and their padding to one rectangle
of token ids."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlcli.config.run import EvalBatchSize
from mtlcli.data.features import NO_TARGET, Features, Sequences
from mtlcli.errors import UserError

POOL = 200
"""The most batches whose features are sorted by length together. More batches give less padding,
fewer give a better mixture. On GLUE, 50 give 1.039 padded tokens for each real one, 200 give
1.013."""
ALIGNMENT = 8
"""The number of bytes to whose multiples the tensors of a copy to another device are rounded up."""
EVALUATION: dict[str, tuple[int, int | None]] = {"cpu": (64, None), "cuda": (2048, 1 << 15)}
"""The most features and padded tokens of an evaluation batch, by kind of device, where the user
names no number. A GPU waits for the launches of a pass, which cost as much for few tokens as for
many."""
MIXED = 50
"""An epoch with more batches than this has two pools or more, so that a feature does not meet the
same other features in each epoch."""


@dataclass(frozen=True)
class InputFormat:
    """How features become rectangles of token ids."""

    pad_id: int
    """The token id that pads `input_ids`."""
    uses_segments: bool
    """Whether the model has segments."""
    multiple: int = 1
    """The number to whose multiples the widths of batches are rounded up. It is more than 1 where
    each new shape of a batch is slow: see `precision.input_format`."""

    def rounded(self, lengths: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """Return `lengths` rounded up to the multiple, but not above `most`; same shape."""
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
    """The columns of the features: (B,) each."""
    lengths: NDArray[np.int64]
    """(B,): the number of tokens of each feature. Always in host memory, whatever the device."""
    indices: NDArray[np.int64]
    """(B,): the numbers of the features in their split."""
    denominator: float
    """The divisor of the summed loss: the number of labelled items of this task in the whole step
    (or the sum of their weights), over all micro-batches and ranks."""
    pad_id: int
    """The token id that pads `input_ids`."""
    parts: tuple[tuple[str, int], ...] = ()
    """For a mixed batch, (task, number of features) in the order of the features. Empty for a batch
    of one task."""
    examples: float = 1.0
    """The number of features of this task in the whole step, over all micro-batches and ranks."""
    token_targets: dict[str, Tensor] = field(default_factory=dict)
    """The token targets of the features: (B, L) int64 each, NO_TARGET in the padding."""
    sequences: dict[str, Tensor] = field(default_factory=dict)
    """The further sequences of the features: (B, S) int64 each, with a width S of its own,
    NO_TARGET in the padding."""
    widest: int | None = None
    """The most features of one example, where features belong together (`Features.groups`). The
    column `place` then has the place of each feature in its example. None: each is an example."""

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Batch:
        """Return the same batch on another device: see `moved`."""
        return moved([self], device)[0]

    def tensors(self) -> list[Tensor]:
        """Return all tensors of the batch, in a fixed order."""
        segments = [] if self.token_type_ids is None else [self.token_type_ids]
        values = (
            *self.columns.values(),
            *self.token_targets.values(),
            *self.sequences.values(),
        )
        return [self.input_ids, self.attention_mask, *segments, *values]

    def with_tensors(self, tensors: Iterator[Tensor]) -> Batch:
        """Return the same batch with other tensors, in the order of `tensors`."""
        return replace(
            self,
            input_ids=next(tensors),
            attention_mask=next(tensors),
            token_type_ids=None if self.token_type_ids is None else next(tensors),
            columns={name: next(tensors) for name in self.columns},
            token_targets={name: next(tensors) for name in self.token_targets},
            sequences={name: next(tensors) for name in self.sequences},
        )

    def pick(self, rows: NDArray[np.int64], length: int) -> Batch:
        """Return a batch of some of the features, by their places in this batch, cut or padded to
        `length`, which none of them exceeds: (len(rows), `length`)."""
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
            token_targets={
                name: fit(values, NO_TARGET) for name, values in self.token_targets.items()
            },
            sequences={name: values[places] for name, values in self.sequences.items()},
            lengths=self.lengths[rows],
            indices=self.indices[rows],
        )


def uploaded(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device. This process goes on while it is copied."""
    tensor = torch.from_numpy(array)
    # A copy from memory that is not pinned would wait for the GPU.
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def moved(batches: Sequence[Batch], device: torch.device) -> list[Batch]:
    """Return the same batches on another device, to which all of their tensors go in one copy. This
    process goes on while they are copied."""
    tensors = [tensor for batch in batches for tensor in batch.tensors()]
    if all(tensor.device == device for tensor in tensors):
        return list(batches)
    memory = Memory(tensors, device)
    memory.fill([tensor.numpy() for tensor in tensors])
    parts = iter(memory.tensors)
    return [batch.with_tensors(parts) for batch in batches]


class Memory:
    """Memory of a device for tensors of given shapes, which one copy fills."""

    def __init__(self, like: Sequence[Tensor], device: torch.device) -> None:
        # Each tensor begins at a multiple of the largest size of a number.
        self._like = [(tensor.nbytes, tensor.dtype, tensor.shape) for tensor in like]
        self._sizes = [-(-size // ALIGNMENT) * ALIGNMENT for size, _, _ in self._like]
        self._there = torch.empty(sum(self._sizes), dtype=torch.uint8, device=device)
        self.tensors = self._tensors(self._there)
        """The tensors on the device."""
        self._free: list[_Staging] = []

    def _tensors(self, memory: Tensor) -> list[Tensor]:
        return [
            place[:size].view(dtype).view(shape)
            for place, (size, dtype, shape) in zip(
                memory.split(self._sizes), self._like, strict=True
            )
        ]

    def fill(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Copy arrays of the same shapes. This process goes on while they are copied."""
        staging = self._free.pop(0) if self._free and self._free[0].ready else self._staging()
        for place, array in zip(staging.places, arrays, strict=True):
            place[...] = array
        self._there.copy_(staging.memory, non_blocking=True)
        staging.used()
        self._free.append(staging)

    def _staging(self) -> _Staging:
        # Memory that is not pinned would be copied to pinned memory by the driver first, and this
        # process would wait for that.
        memory = torch.empty(sum(self._sizes), dtype=torch.uint8, pin_memory=self._there.is_cuda)
        return _Staging(memory, [tensor.numpy() for tensor in self._tensors(memory)])


@dataclass
class _Staging:
    """Host memory from which a device copies."""

    memory: Tensor
    places: list[NDArray[Any]]
    _copied: torch.cuda.Event | None = None

    def used(self) -> None:
        """Note that a copy has begun."""
        if self.memory.is_pinned():
            self._copied = self._copied or torch.cuda.Event()
            self._copied.record()

    @property
    def ready(self) -> bool:
        """Whether the last copy is over."""
        return self._copied is None or self._copied.query()


def join(batches: Sequence[tuple[str, Batch]]) -> Batch:
    """Return a mixed batch of several batches of the same width, each given with the name of its
    task. The mixed batch has no columns and no targets: those of a task stay in the task's own
    batch."""
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
    """Return the features numbered `indices` as one padded batch. `examples`: the number of
    features of the task in the whole step; None means as many as `denominator`. `max_tokens`: the
    number of padded tokens up to which the width may be rounded up.

    The width never exceeds the longest feature of the split, whose length the model is known to
    take.
    """
    starts = features.offsets[indices]
    lengths = features.offsets[indices + 1] - starts
    # The tokens of a feature for which there is room, and those that its sequences will need.
    room = None if max_tokens is None else max_tokens // max(1, len(indices))
    needed = sum(int(each.lengths[indices].max(initial=0)) for each in features.sequences.values())
    most = features.longest if room is None else min(features.longest, room - needed)
    place = np.arange(input_format.rounded(lengths, most).max(initial=0))
    left = None if room is None else (room - len(place) - needed) // max(1, len(features.sequences))
    mask = place < lengths[:, None]
    # Beyond the end of a feature the gather reads tokens of its neighbour, which the mask replaces;
    # `clip` keeps the index inside the array.
    ids = features.ids.take(starts[:, None] + place, mode="clip").astype(np.int64)
    ids[~mask] = input_format.pad_id
    targets = {
        name: torch.from_numpy(
            np.where(mask, values.take(starts[:, None] + place, mode="clip"), NO_TARGET)
        )
        for name, values in features.token_targets.items()
    }
    segments = None
    if input_format.uses_segments:
        segments = torch.from_numpy(
            ((place >= features.segments[indices][:, None]) & mask).astype(np.int64)
        )
    columns = {name: column[indices] for name, column in features.columns.items()}
    if features.groups is not None:
        example = np.searchsorted(features.groups, indices, side="right") - 1
        columns["place"] = indices - features.groups[example]
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        token_type_ids=segments,
        columns={name: torch.from_numpy(column) for name, column in columns.items()},
        token_targets=targets,
        sequences={
            name: _padded(sequences, indices, input_format, left)
            for name, sequences in features.sequences.items()
        },
        lengths=lengths,
        indices=indices,
        denominator=denominator,
        pad_id=input_format.pad_id,
        examples=denominator if examples is None else examples,
        widest=None if features.groups is None else 1 + int(columns["place"].max(initial=0)),
    )


def _padded(
    sequences: Sequences, indices: NDArray[np.int64], input_format: InputFormat, left: int | None
) -> Tensor:
    """Return the sequences of some features, padded on the right with NO_TARGET: (B, S) int64.
    `left`: the tokens up to which the width may be rounded up; None: any number."""
    starts = sequences.offsets[indices]
    lengths = sequences.offsets[indices + 1] - starts
    widest = int(lengths.max(initial=0))
    most = sequences.longest if left is None else min(sequences.longest, widest + max(0, left))
    place = np.arange(input_format.rounded(lengths, most).max(initial=0))
    if not len(sequences.ids):
        return torch.full((len(indices), 0), NO_TARGET)
    ids = sequences.ids.take(starts[:, None] + place, mode="clip").astype(np.int64)
    return torch.from_numpy(np.where(place < lengths[:, None], ids, NO_TARGET))


class Stream:
    """The endless order in which training uses the examples of a task: its features, or the groups
    of features that belong together.

    The order is a pure function of (seed, epoch). All examples are shuffled, each pool of up to
    POOL batches is sorted by length and cut into batches, and the batches are shuffled. Every
    example occurs exactly once in an epoch. A batch ends at `batch_size` examples, or before its
    padded size, targets included, would exceed `max_tokens`. The position is the number of batches
    consumed since the start, and nothing else needs to be saved.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        max_tokens: int | None = None,
        sizes: NDArray[np.int64] | None = None,
        targets: NDArray[np.int64] | None = None,
        variants: int = 1,
    ) -> None:
        """lengths: (N,), the number of tokens of each example, or of its longest feature. sizes:
        (N,), the number of features of each example; None: 1. targets: (N,), the number of tokens
        of each example's further sequences, which `max_tokens` counts too; None: 0. `variants`: the
        number of features that follow one another and say the same thing; an epoch holds one of
        them, which is drawn. Raises UserError when the largest example exceeds `max_tokens`."""
        if len(lengths) == 0:
            raise ValueError("a stream needs at least one example")
        # What is kept for each example counts where a task has many millions of them.
        none, one = np.broadcast_to(0, len(lengths)), np.broadcast_to(1, len(lengths))
        self._sizes = _narrow(one if sizes is None else sizes)
        self._targets = _narrow(none if targets is None else targets)
        self._lengths = _narrow(lengths)
        most = int(((lengths + self._targets) * self._sizes).max())
        if max_tokens is not None and most > max_tokens:
            raise UserError(
                f"{max_tokens} tokens cannot hold the longest input, which has {most}"
                + (" with its target" if self._targets.any() else ""),
                where="runner.max_tokens",
                fix="raise it, or lower data.max_length",
            )
        self._batch_size = batch_size
        self._max_tokens = max_tokens
        self._seed = seed
        self._variants = variants
        self._ends: list[int] = []  # The position at which each known epoch ends.
        self._epoch = -1
        self._examples: NDArray[np.int64] = np.zeros(0, np.int64)
        self._bounds: NDArray[np.int64] = np.zeros((0, 2), np.int64)

    def batches_in_epoch(self, epoch: int) -> int:
        """Return the number of batches in an epoch (epochs count from 0). Epochs may differ when
        `max_tokens` is given."""
        if self._max_tokens is None:
            return -(-(len(self._lengths) // self._variants) // self._batch_size)
        self._order(epoch)
        return len(self._bounds)

    def indices(self, position: int) -> NDArray[np.int64]:
        """Return the numbers of the examples of the batch at `position`, sorted by length: (B,).
        The share of one rank is `indices(p)[rank::world]`."""
        while not self._ends or position >= self._ends[-1]:
            self._ends.append(
                (self._ends[-1] if self._ends else 0) + self.batches_in_epoch(len(self._ends))
            )
        epoch = bisect_right(self._ends, position)
        self._order(epoch)
        start = self._ends[epoch - 1] if epoch else 0
        return self._examples[slice(*self._bounds[position - start])].copy()

    def _order(self, epoch: int) -> None:
        """Put the examples of an epoch in order, and find where its batches begin and end. The last
        epoch that was asked for is kept."""
        if epoch != self._epoch:
            random = np.random.default_rng((self._seed, epoch))
            shuffled = random.permutation(len(self._lengths) // self._variants)
            if self._variants > 1:
                drawn = random.integers(self._variants, size=len(shuffled))
                shuffled = shuffled * self._variants + drawn
            count = -(-len(shuffled) // self._batch_size)
            pools = max(-(-count // POOL), 2 if count > MIXED else 1)
            size = -(-count // pools) * self._batch_size
            begins: list[NDArray[np.int64]] = []
            for start in range(0, len(shuffled), size):
                pool = shuffled[start : start + size]
                shuffled[start : start + size] = pool[
                    np.argsort(self._lengths[pool], kind="stable")
                ]
                begins.append(start + self._cut(shuffled[start : start + size]))
            ends = np.concatenate([*begins, [len(shuffled)]])
            self._bounds = np.stack([ends[:-1], ends[1:]], 1)[random.permutation(len(ends) - 1)]
            self._examples, self._epoch = shuffled, epoch

    def _cut(self, pool: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where each batch of one pool begins, whose examples are sorted by length."""
        if self._max_tokens is None:
            return np.arange(0, len(pool), self._batch_size)
        lengths, sizes, targets = (
            each[pool].astype(np.int64) for each in (self._lengths, self._sizes, self._targets)
        )
        begins = []
        start = 0
        while start < len(pool):
            begins.append(start)
            window = slice(start, start + self._batch_size)
            # The padded size if the batch ended at each example; it never decreases.
            width = lengths[window] + np.maximum.accumulate(targets[window])
            padded = width * np.cumsum(sizes[window])
            start += int(np.searchsorted(padded, self._max_tokens, side="right"))
        return np.array(begins)


def _narrow(numbers: NDArray[np.int64]) -> NDArray:
    """Return whole numbers of 0 or more in half the memory, if none is too large."""
    if numbers.strides == (0,):  # All of them are one and the same number.
        return numbers
    return numbers.astype(np.int32) if int(numbers.max()) < 1 << 31 else numbers


def evaluation_batches(
    lengths: NDArray[np.int64], *, batch_size: EvalBatchSize, device: torch.device
) -> list[NDArray[np.int64]]:
    """Return batches of feature numbers that cover every feature once, the longest features first,
    so that a lack of memory shows at once."""
    most, tokens = evaluation_limits(batch_size, device)
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        room = most if tokens is None else min(most, max(1, tokens // longest))
        batches.append(order[start : start + room])
        start += room
    return batches


def evaluation_limits(batch_size: EvalBatchSize, device: torch.device) -> tuple[int, int | None]:
    """Return the most features of an evaluation batch, and the most padded tokens of several
    features (None: any number)."""
    if batch_size != "auto":
        return batch_size, None
    return EVALUATION[device.type]


def rectangles(lengths: NDArray[np.int64], *, overhead: int, most: int) -> list[NDArray[np.int64]]:
    """Return the grouping of features by length that costs least. Each group holds places in
    `lengths` (N,); the groups are in order of length.

    The cost of a group is its padded tokens plus `overhead` tokens. No group of several features
    has more than `most` padded tokens.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = np.asarray(lengths)[order]
    costs = np.zeros(len(order) + 1)  # costs[n] is the least cost of the first n features.
    begins = np.zeros(len(order) + 1, np.int64)  # begins[n]: where their last group begins.
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
