"""How a module of the library gets a faster forward pass."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn


def put_on(mixin: type, module: nn.Module, **attributes: Any) -> None:
    """Let a module compute as `mixin` says, whose class then stands before the module's own, and
    give it attributes. Only the class changes: with a module around the module, the names of
    parameters would not stay as they are."""
    module.__class__ = _mixed(mixin, type(module))  # type: ignore[arg-type]
    # Not by `setattr`, which would register modules among them a second time.
    vars(module).update(attributes)


@cache
def _mixed(mixin: type, kind: type) -> type:
    """Return one class for all modules of a kind, so that they can share compiled code."""
    return type(kind.__name__, (mixin, kind), {})
