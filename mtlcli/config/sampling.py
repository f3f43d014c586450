"""The base class of the configurations of sampling policies. Each policy has its own, in its file
in `mtlcli/sampling/`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar

from mtlcli.config.section import section
from mtlcli.errors import Problem
from mtlcli.registry import Registry

samplings = Registry("sampling", "mtlcli.sampling", group="mtlcli.sampling")


@section
class SamplingConfig:
    """The base class of the configurations of sampling policies."""

    all_tasks: ClassVar[bool] = False
    """Whether every step holds every task, as methods that compare tasks within a step need."""
    needs_scores: ClassVar[bool] = False
    """Whether the policy learns from the validation score of every trained task."""
    needs_gradients: ClassVar[bool] = False
    """Whether the policy learns from the tasks' gradients of shared parameters."""
    name: str
    """Policy."""

    def problems(self, trained: Collection[str]) -> Iterator[Problem]:
        """Yield the problems of the values in a run that trains these tasks."""
        yield from ()
