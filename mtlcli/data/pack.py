"""Packed batches: the features of a pass as one sequence of tokens without padding between them.

A padded batch computes every feature at the width of the longest one, and has a new shape in nearly
every step. A packed batch is filled up to one of a few sizes (`budget`), so that shapes repeat: on
GPUs, and in bf16 on CPUs, each new shape costs time before its first product. What fills the batch
are sequences that nobody reads, since attention kernels leave tokens outside of all sequences
undefined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtlcli.data.batches import Batch, rectangles, uploaded

STEP = 128
"""The distance of the small token budgets."""
EVEN = 1024
"""The largest of the budgets that are STEP apart."""
GROWTH = 1.25
"""The quotient of neighbouring larger budgets, which are rounded to multiples of ROUNDED."""
ROUNDED = 256
GROUP_OVERHEAD = 32
"""The fixed cost of attention over one more group of sequences, in tokens that take as long."""


@dataclass(frozen=True)
class Packing:
    """How batches are packed for a model."""

    longest: int
    """The most tokens of a sequence."""
    first_position: int = 0
    """The position of a sequence's first token: not 0 in models like RoBERTa."""


def budget(tokens: int) -> int:
    """Return the smallest token budget that holds `tokens` tokens: multiples of 128 up to 1,024,
    above that each about 1.25 times the one before."""
    return _neighbours(tokens)[1]


def _neighbours(tokens: int) -> tuple[int, int]:
    """Return the largest budget below `tokens`, or 0, and the smallest that is not."""
    if tokens <= EVEN:
        above = max(1, -(-tokens // STEP)) * STEP
        return above - STEP, above
    below, above = EVEN, EVEN
    while above < tokens:
        below, above = above, round(above * GROWTH / ROUNDED) * ROUNDED
    return below, above


class Group:
    """Sequences of a packed batch with nearly the same length, for attention by plain products."""

    def __init__(self, starts: NDArray[np.int64], lengths: NDArray[np.int64], device: torch.device):
        """`starts`: the places of the first tokens (n,)."""
        self.count, self.width = len(starts), int(lengths.max())
        inside = np.arange(self.width)
        real = inside < lengths[:, None]
        places = np.where(real, starts[:, None] + inside, starts[:, None])
        self.places = torch.from_numpy(places.ravel()).to(device)
        """(n * width,): the place of each token; behind the end of a sequence, of its first."""
        self.real = torch.from_numpy(real).to(device)
        """(n, width) bool: False behind the end of a sequence."""
        self.even = bool(real.all())
        """Whether all sequences have the same length."""
        self.inside = torch.from_numpy(np.flatnonzero(real)).to(device)
        """The numbers of the real tokens within the group."""
        self.order = places[real]
        """The places of the real tokens."""


@dataclass
class Layout:
    """Where the sequences of a packed batch of T tokens lie."""

    lengths: NDArray[np.int64]
    """(S,): the number of tokens of each sequence, in host memory. They sum to T. First come the
    features, then what fills the budget, then sequences without a token."""
    ends: Tensor
    """(S + 1,) int32: 0, and where each sequence ends (`cu_seqlens`)."""
    positions: Tensor
    """(1, T) int64: the positions of the tokens in their sequences, for the model."""
    first: Tensor
    """(R,) int64: the place of the first token of each feature."""
    last: Tensor
    """(R,) int64: the place of the last token of each feature."""
    sources: Tensor
    """(T,) int64: the place of each token among the padded tokens of all parts. Empty where these
    are not on the device."""
    owners: Tensor
    """(T,) int64: the feature of each token; R where a token belongs to none."""
    longest: int
    """The most tokens that a sequence may have."""
    _groups: list[Group] = field(default_factory=list)
    _unsort: Tensor | None = None

    @property
    def features(self) -> int:
        """R, the number of features."""
        return len(self.first)

    def regroup(self, lengths: NDArray[np.int64]) -> None:
        """Take over other lengths, now that the tensors have been filled with those of another
        batch."""
        self.lengths, self._unsort = lengths, None

    def groups(self) -> tuple[list[Group], Tensor]:
        """Return groups of sequences that hold every token once, and for each token its place
        among the tokens of all groups, (T,)."""
        if self._unsort is None:
            device = self.first.device
            filled = np.flatnonzero(self.lengths)
            starts, lengths = (np.cumsum(self.lengths) - self.lengths)[filled], self.lengths[filled]
            self._groups = [
                Group(starts[places], lengths[places], device)
                for places in rectangles(
                    lengths, overhead=GROUP_OVERHEAD, most=int(self.lengths.sum() + self.longest)
                )
            ]
            order = np.concatenate([group.order for group in self._groups])
            self._unsort = torch.from_numpy(np.argsort(order)).to(device)
        return self._groups, self._unsort


@dataclass
class PackedBatch(Batch):
    """R features as one sequence of T tokens: `input_ids`, `attention_mask` and `token_type_ids`
    are (1, T). `attention_mask` is False where tokens only fill the budget.

    `parts` are (task, number of tokens); the tokens that fill the budget belong to the last part.
    """

    layout: Layout = field(kw_only=True)


@dataclass(frozen=True)
class Plan:
    """Where the sequences of a packed batch will lie: see `Layout`."""

    rows: NDArray[np.int64]
    """(R,): the number of tokens of each feature."""
    tokens: int
    """Their sum."""
    budget: int
    """T, the number of tokens of the packed batch."""
    lengths: NDArray[np.int64]
    ends: NDArray[np.int64]
    inside: NDArray[np.int64]
    """(T,): the place of each token in its sequence."""
    positions: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    owners: NDArray[np.int64]


def plan_layout(batches: Sequence[Batch], packing: Packing) -> Plan:
    """Return where the features of some batches lie as one packed batch."""
    rows = np.concatenate([batch.lengths for batch in batches])
    assert rows.max() <= packing.longest
    tokens = int(rows.sum())
    below, above = _neighbours(tokens)
    lengths = np.concatenate([rows, _filler(below, above, tokens, packing.longest)])
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    inside = np.arange(above) - np.repeat(ends[:-1], lengths)
    owners = np.full(above, len(rows))
    owners[:tokens] = np.repeat(np.arange(len(rows)), rows)
    return Plan(
        rows=rows,
        tokens=tokens,
        budget=above,
        lengths=lengths,
        ends=ends,
        inside=inside,
        positions=inside + packing.first_position,
        first=ends[: len(rows)],
        last=ends[1 : len(rows) + 1] - 1,
        owners=owners,
    )


def pack(parts: Sequence[tuple[str, Batch]], packing: Packing) -> PackedBatch:
    """Return padded batches as one packed batch on the same device, in their order. Each is given
    with the name of its task, whose columns stay in the task's own batch."""
    batches = [batch for _, batch in parts]
    plan = plan_layout(batches, packing)
    rows, tokens, above = plan.rows, plan.tokens, plan.budget
    # Whatever fills the budget, nobody reads it: here it is the first token again and again.
    sources = np.zeros(above, np.int64)
    sources[:tokens] = np.repeat(_row_starts(batches), rows) + plan.inside[:tokens]
    layout = _layout(plan, sources, packing.longest, batches[0].input_ids.device)
    counts = [int(batch.lengths.sum()) for batch in batches]
    counts[-1] += above - tokens

    def packed(tensors: list[Tensor]) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in tensors])[layout.sources].unsqueeze(0)

    segments = [batch.token_type_ids for batch in batches if batch.token_type_ids is not None]
    return PackedBatch(
        input_ids=packed([batch.input_ids for batch in batches]),
        attention_mask=(layout.owners < len(rows)).unsqueeze(0),
        token_type_ids=packed(segments) if segments else None,
        columns={},
        lengths=rows,
        indices=np.concatenate([batch.indices for batch in batches]),
        denominator=1.0,
        pad_id=batches[0].pad_id,
        parts=tuple((name, count) for (name, _), count in zip(parts, counts, strict=True)),
        layout=layout,
    )


@dataclass
class PlacedBatch(Batch):
    """The batch of a task whose inputs lie in a packed batch already."""

    packed: PackedBatch = field(kw_only=True)
    """The packed batch, which may hold the inputs of other tasks as well."""
    places: Places = field(kw_only=True)
    """Where this batch lies in it."""


def places_of(parts: Sequence[tuple[str, Batch]], packed: PackedBatch) -> Iterator[Places]:
    """Yield the place of each part in the packed batch that was made of them."""
    begin = first = offset = 0
    for _, batch in parts:
        end = begin + int(batch.lengths.sum())
        yield Places(
            slice(begin, end),
            slice(first, first + len(batch)),
            packed.layout.sources[begin:end] - offset,
            batch.input_ids.shape,
        )
        begin, first, offset = end, first + len(batch), offset + batch.input_ids.numel()


@dataclass(frozen=True)
class Places:
    """The place of a part in a packed batch."""

    tokens: slice
    """The range of its tokens."""
    rows: slice
    """The range of its features."""
    places: Tensor
    """The places of these tokens among the padded ones, row by row."""
    shape: torch.Size
    """(B, L), the shape of the padded part."""

    def pad(self, hidden: Tensor) -> Tensor:
        """Return the part's states in the form of the padded batch, with 0 for padding: (B, L,
        hidden). `hidden`: all states, (1, T, hidden)."""
        states = hidden[0, self.tokens]
        padded = states.new_zeros(self.shape.numel(), states.shape[-1])
        return padded.index_copy(0, self.places, states).view(*self.shape, -1)


@dataclass(frozen=True)
class FixedPlaces(Places):
    """The same for a batch that is filled with other inputs in each step. `places` are those of all
    tokens of the packed batch; tokens of other parts go behind the last one."""

    def pad(self, hidden: Tensor) -> Tensor:
        states = hidden[0]
        padded = states.new_zeros(self.shape.numel() + 1, states.shape[-1])
        return padded.index_copy(0, self.places, states)[:-1].view(*self.shape, -1)


def _row_starts(batches: Sequence[Batch]) -> NDArray[np.int64]:
    """Return for each feature where its row begins among the padded tokens of all batches."""
    starts, offset = [], 0
    for batch in batches:
        rows, width = batch.input_ids.shape
        starts.append(offset + np.arange(rows) * width)
        offset += rows * width
    return np.concatenate(starts)


def _filler(below: int, above: int, tokens: int, longest: int) -> NDArray[np.int64]:
    """Return the lengths of the sequences that fill a budget. Their number depends only on the
    budget; those that are not needed have no token."""
    lengths = np.zeros(-(-(above - below) // longest), np.int64)
    left = above - tokens
    for place in range(len(lengths)):
        lengths[place] = min(left, longest)
        left -= lengths[place]
    return lengths


def _layout(plan: Plan, sources: NDArray[np.int64], longest: int, device: torch.device) -> Layout:
    """Return a layout whose tensors go to the device in one copy."""
    arrays = [plan.ends, plan.positions, plan.first, plan.last, sources, plan.owners]
    buffer = uploaded(np.concatenate(arrays), device)
    ends, positions, first, last, there, owners = buffer.split([len(each) for each in arrays])
    return Layout(
        plan.lengths,
        ends.to(torch.int32),
        positions.unsqueeze(0),
        first,
        last,
        there,
        owners,
        longest,
    )
