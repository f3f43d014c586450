"""What the methods of merging are given: the weights of the runs, and what passes rows through
them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mtlcli.data.batches import Batch
from mtlcli.models.multitask import MultiTaskModel

State = dict[str, Tensor]
"""The tensors of a backbone that hold floating-point numbers, by the library's names, on the
CPU."""
BACKBONE = "trunk.backbone."
"""The beginning of the names of these tensors in `Rows.model`."""


class Rows(Protocol):
    """Rows of the runs' train splits, and a model with all heads to pass them through."""

    model: MultiTaskModel
    """A model with one backbone and the heads of all runs, in evaluation mode."""

    def load(self, weights: State) -> None:
        """Give the model's backbone these weights."""
        ...

    def of_run(self, run: int, rows: int, seed: int) -> Iterator[tuple[str, Batch]]:
        """Yield rows of the tasks of a run, one at a time, each with its task: some `rows`, drawn
        in equal parts from its train splits. A row alone has no padding."""
        ...

    def batches(self, rows: int, size: int, seed: int) -> Iterator[list[tuple[str, Batch]]]:
        """Yield, without end, a batch of each task of all runs, of `size` rows out of `rows` that
        are drawn once from its train split."""
        ...


@dataclass
class Copies:
    """The models that become one."""

    weights: list[State]
    """The backbone of each run."""
    base: State | None = None
    """The weights with which all runs have begun, for methods that need them."""
    rows: Rows | None = None
    """For methods that read rows."""

    @property
    def vectors(self) -> list[State]:
        """The task vector of each run: its weights less the initial ones."""
        assert self.base is not None
        return [
            {name: tensor - self.base[name] for name, tensor in each.items()}
            for each in self.weights
        ]

    def added(self, change: Callable[[str, list[Tensor]], Tensor], vectors: list[State]) -> State:
        """Return the initial weights, to each of which `change(name, its task vectors)` is
        added."""
        assert self.base is not None
        return {
            name: tensor + change(name, [each[name] for each in vectors])
            for name, tensor in self.base.items()
        }

    def mean(self) -> State:
        """Return the mean of the weights."""
        return {
            name: sum((each[name] for each in self.weights[1:]), first) / len(self.weights)
            for name, first in self.weights[0].items()
        }
