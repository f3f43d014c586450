"""The base class of the configurations of sampling policies. Each policy has its own, in its file
in `mtlcli/sampling/`."""

from __future__ import annotations

from typing import ClassVar

from mtlcli.config.section import section
from mtlcli.registry import Registry

samplings = Registry("sampling", "mtlcli.sampling", group="mtlcli.sampling")


@section
class SamplingConfig:
    """The base class of the configurations of sampling policies."""

    all_tasks: ClassVar[bool] = False
    """Whether every step holds every task, as methods that compare tasks within a step need."""
    name: str
    """Policy."""
