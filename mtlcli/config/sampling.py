"""What the configurations of sampling policies have in common. Each policy has its own, in its file
in `mtlcli/sampling/`."""

from __future__ import annotations

from typing import ClassVar

from mtlcli.config.section import section
from mtlcli.registry import Registry

samplings = Registry("sampling", "mtlcli.sampling", group="mtl.samplings")


@section
class SamplingConfig:
    """What the configurations of all sampling policies have in common."""

    all_tasks: ClassVar[bool] = False
    """Whether every step holds every task, which methods that compare tasks within a step need."""
    name: str
    """Policy."""
