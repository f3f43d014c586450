"""A sampling policy: several steps of one task, then as many of the next one.

It draws nothing: the task of a step is a function of its number, so that a resumed run has the same
plan, and every rank too.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le

from mtlcli.config.sampling import SamplingConfig, samplings
from mtlcli.config.section import section
from mtlcli.sampling.base import Sampling


@samplings.register("blocks", "Blocks")
@section
class BlocksSampling(SamplingConfig):
    """Blocks of steps with one task, in turn."""

    name: Literal["blocks"] = "blocks"
    """Policy."""
    length: Annotated[int, Ge(1), Le(1_000_000)] = 2
    """Number of steps in a block."""


class Blocks(Sampling):
    """The plan of the steps."""

    def plan(self, step: int) -> list[tuple[str, int]]:
        """Return the one task of a step, and the number of its examples."""
        name = self.names[step // self.config.length % len(self.names)]
        return [(name, self.sizes[name].batch_size)]
