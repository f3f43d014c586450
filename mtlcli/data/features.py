"""Model inputs as flat arrays, which `TaskType.encode` returns and the encoded store keeps on
disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.table import Table

NO_TARGET = -100
"""Value of `token_targets` for a token without one; losses of torch leave it out by default."""

VARIANT = "variant"
"""The column of features that say the same thing in several ways, for example a row with several
prompts: the number of the way. Those of a row follow one another, and training uses one of them in
an epoch."""

TEACHER = "teacher"
"""The column of train features that has the outputs of a teacher, from which a run learns
(`augmentation=distill`): (N, outputs) fp32."""


@dataclass
class Sequences:
    """A token sequence for each of N features, one after another in a flat array."""

    ids: NDArray[np.unsignedinteger]
    """Token ids of all sequences: (total tokens,)."""
    offsets: NDArray[np.int64]
    """The sequence of feature i is ids[offsets[i]:offsets[i + 1]], which may be empty: (N + 1,)."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each sequence: (N,)."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest sequence; 0 without tokens."""
        return int(self.lengths.max(initial=0))


@dataclass
class Features:
    """N model inputs, one after another in flat arrays. A feature is one input sequence: an
    example, or one window of it."""

    ids: NDArray[np.unsignedinteger]
    """Token ids of all features, special tokens included: (total tokens,)."""
    offsets: NDArray[np.int64]
    """Feature i is ids[offsets[i]:offsets[i + 1]]: (N + 1,)."""
    segments: NDArray[np.int32]
    """Number of leading tokens of feature i that belong to segment 0; the tokens after them belong
    to segment 1: (N,)."""
    columns: dict[str, NDArray] = field(default_factory=dict)
    """One value per feature, for example `label`, `start`, `end`. The column `row` is always
    present: the row of the table that the feature was made from."""
    token_columns: dict[str, NDArray] = field(default_factory=dict)
    """One value per token, aligned with `ids`, for example character offsets. The model does not
    get them."""
    token_targets: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """One whole number per token, aligned with `ids`, that the loss reads, for example the class id
    of a tag: (total tokens,). -100 (NO_TARGET) where a token has none."""
    sequences: dict[str, Sequences] = field(default_factory=dict)
    """Further token sequences of each feature, of any length, for example the `target` that a
    decoder learns to write."""
    groups: NDArray[np.int64] | None = None
    """Where features belong together, as the options of a question do: example i consists of the
    features groups[i] ... groups[i + 1] - 1, which a batch holds all or none of: (examples + 1,).
    None: every feature is an example of its own."""
    notes: dict[str, int] = field(default_factory=dict)
    """Counts to report to the user: `truncated`, `questions cut`, ..."""
    noted: dict[str, list[int]] = field(default_factory=dict)
    """For some of the `notes`, the first of the rows that are counted."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each feature: (N,)."""
        return np.diff(self.offsets)

    @property
    def example_sizes(self) -> NDArray[np.int64]:
        """Number of features of each example: (examples,)."""
        if self.groups is not None:
            return np.diff(self.groups)
        return np.broadcast_to(np.int64(1), len(self))

    @property
    def example_lengths(self) -> NDArray[np.int64]:
        """Number of tokens of the longest feature of each example: (examples,)."""
        if self.groups is None or len(self) == 0:
            return self.lengths
        return np.maximum.reduceat(self.lengths, self.groups[:-1])

    @property
    def example_targets(self) -> NDArray[np.int64]:
        """Number of tokens of the further sequences of each example, of the feature that has most:
        (examples,)."""
        found = np.zeros(len(self), np.int64)
        for each in self.sequences.values():
            found += each.lengths
        if self.groups is None or len(self) == 0:
            return found
        return np.maximum.reduceat(found, self.groups[:-1])

    def members(self, examples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the features of some examples, example by example."""
        if self.groups is None:
            return examples
        starts, sizes = self.groups[examples], self.groups[examples + 1] - self.groups[examples]
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return np.repeat(starts, sizes) + inside

    @cached_property
    def variants(self) -> int:
        """Number of features of each row that say the same thing (see VARIANT)."""
        return int(self.columns[VARIANT].max(initial=0)) + 1 if VARIANT in self.columns else 1

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest feature; 0 without features."""
        return int(self.lengths.max(initial=0))


def joined(parts: Sequence[Features]) -> Features:
    """Return the features of several tables of a task one after another, with all that a model
    reads, but without token columns and notes. The column `row` still counts the rows of each
    table from 0."""
    first, *others = parts
    if not others:
        return first
    groups = None
    if first.groups is not None:
        groups = _one_after_another([part.groups for part in parts if part.groups is not None])
    return Features(
        ids=np.concatenate([part.ids for part in parts]),
        offsets=_one_after_another([part.offsets for part in parts]),
        segments=np.concatenate([part.segments for part in parts]),
        columns={
            name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns
        },
        token_targets={
            name: np.concatenate([part.token_targets[name] for part in parts])
            for name in first.token_targets
        },
        sequences={
            name: Sequences(
                np.concatenate([part.sequences[name].ids for part in parts]),
                _one_after_another([part.sequences[name].offsets for part in parts]),
            )
            for name in first.sequences
        },
        groups=groups,
    )


def _one_after_another(offsets: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the offsets into joined arrays: (sum of all lengths + 1,)."""
    lengths = np.concatenate([np.diff(each) for each in offsets])
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


@dataclass
class Split:
    """The table rows and the features of one split of a task."""

    table: Table
    """The table rows."""
    features: Features
    """The features encoded from the table rows."""
