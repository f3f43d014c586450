"""Sharing strategies: which parameters tasks have in common. One dataclass per strategy."""

from __future__ import annotations

from typing import ClassVar, Literal

from mtlcli.config.section import section
from mtlcli.registry import Registry

sharings = Registry("sharing")


@sharings.register("hard", "mtlcli.sharing.hard:Hard")
@section
class HardSharing:
    """One backbone for all tasks, one head each (Caruana 1997)."""

    shares: ClassVar[bool] = True
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["hard"] = "hard"
    """Strategy."""


@sharings.register("none", "mtlcli.sharing.none:NoSharing")
@section
class NoSharing:
    """A separate copy of the backbone for each task: the single-task baseline at equal data."""

    shares: ClassVar[bool] = False
    """Whether tasks have parameters in common, which gradient balancing needs."""
    name: Literal["none"] = "none"
    """Strategy."""
