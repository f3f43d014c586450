"""Model inputs as flat arrays: what a task type's `encode` returns and what the encoded store keeps
on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mtlcli.data.table import Table


@dataclass
class Features:
    """N model inputs, one after another in flat arrays. A feature is one input sequence: an
    example, or one window of it."""

    ids: NDArray[np.unsignedinteger]
    """Token ids of all features, special tokens included: (total tokens,)."""
    offsets: NDArray[np.int64]
    """Feature i is ids[offsets[i]:offsets[i + 1]]: (N + 1,)."""
    segments: NDArray[np.int32]
    """Tokens of feature i that belong to segment 0; those after it belong to segment 1: (N,)."""
    columns: dict[str, NDArray] = field(default_factory=dict)
    """One value per feature, for example `label`, `start`, `end`. Always holds `row`: the row of
    the table it came from."""
    token_columns: dict[str, NDArray] = field(default_factory=dict)
    """One value per token, aligned with `ids`, for example character offsets. Not given to the
    model."""
    notes: dict[str, int] = field(default_factory=dict)
    """What is worth a line for the user, counted: `truncated`, `questions cut`, ..."""
    noted: dict[str, list[int]] = field(default_factory=dict)
    """The first rows that a note counts."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each feature: (N,)."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest feature; 0 without features."""
        return int(self.lengths.max(initial=0))


@dataclass
class Split:
    """A split of a task, rows and features."""

    table: Table
    """The rows."""
    features: Features
    """Their encoded form."""
