"""The batch that is in the backbone: how the modules that a sharing strategy puts into the network
know whose inputs they are given.

The task cannot go down as an argument. The transformers library passes keyword arguments that it
does not know to the layers of most networks, but DeBERTa's encoder drops them, and in no network do
they reach what lies inside a layer or below all layers: a feed-forward block (experts), a norm or
an embedding (task embeddings). So there is one object for each forward pass, which `Trunk.forward`
makes current with `running`, and modules read with `current`. No state is left behind when the pass
is over. A layer that gradient checkpointing computes again in the backward pass is given the pass
of its own batch (`checkpoint_contexts`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from mtlcli.data.pack import Layout


@dataclass
class ForwardPass:
    """A batch on its way through the backbone. A strategy whose layers pass something on to the
    layers above has a subclass with more fields."""

    parts: list[tuple[str, int]]
    """The head owners of the batch's inputs, one part after another, and the number of inputs of
    each, or of tokens in a packed batch. The head owner of a task is the task whose head it uses:
    itself, or the task from which it borrows a head."""
    mask: Tensor
    """(batch, length) bool: True where there is a token; (1, tokens) in a packed batch."""
    layout: Layout | None = field(default=None, kw_only=True)
    """Where the sequences of a packed batch lie; None for a padded one. `Trunk.forward` fills it
    in."""

    @property
    def owner(self) -> str:
        """The head owner of a batch of one task."""
        ((owner, _),) = self.parts
        return owner

    def each(self, function: Callable[..., Tensor], *inputs: Tensor, tokens: int = 1) -> Tensor:
        """Call `function(owner, *inputs)` with the inputs (batch, length, ...) of each part: some
        of the batch, or, in a packed batch, some of the length. Returns the results of all parts,
        joined again: (batch, ...), with the length in dimension `tokens`."""
        if len(self.parts) == 1:
            return function(self.owner, *inputs)
        counts = [count for _, count in self.parts]
        packed = self.layout is not None
        pieces = zip(*(tensor.split(counts, int(packed)) for tensor in inputs), strict=True)
        return torch.cat(
            [function(owner, *piece) for (owner, _), piece in zip(self.parts, pieces, strict=True)],
            tokens if packed else 0,
        )


P = TypeVar("P", bound=ForwardPass)
_current: ContextVar[ForwardPass] = ContextVar("forward_pass")


class running:  # noqa: N801, as other context managers are named
    """Make a pass the current one within a `with` block. The same object may be entered again."""

    def __init__(self, forward_pass: ForwardPass) -> None:
        self._pass = forward_pass
        self._tokens: list[Token[ForwardPass]] = []

    def __enter__(self) -> None:
        self._tokens.append(_current.set(self._pass))

    def __exit__(self, *_: object) -> None:
        _current.reset(self._tokens.pop())


def current(kind: type[P]) -> P:
    """Return the current pass, which the trunk has made as a `kind`."""
    forward_pass = _current.get()
    assert isinstance(forward_pass, kind)
    return forward_pass


def checkpoint_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts in which `torch.utils.checkpoint` computes a layer for the first time,
    and again in the backward pass, when another pass may be current, or none."""
    forward_pass = _current.get(None)
    return nullcontext(), nullcontext() if forward_pass is None else running(forward_pass)
