"""What the strategies have in common whose tasks enter in stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mtlcli.config.sharing import Staging
from mtlcli.models.multitask import Staged, Trunk


class StagedTrunk(Trunk, Staged):
    """The trunk of a run in stages."""

    def __init__(self, config: Staging, owners: dict[str, str]) -> None:
        super().__init__(owners)
        self.stage = 0
        """The present stage, from 0."""
        self.count = len(order := config.stages_of(owners))
        self._stage_of = {
            owners[task]: number for number, stage in enumerate(order) for task in stage
        }

    def stage_of(self, task: str) -> int:
        """Return the stage in which a task, or the task whose head it uses, is trained."""
        return self._stage_of[self.owners[task]]

    def enter(self, stage: int, *, anew: bool) -> None:
        """Enter a stage of the run (see `models/multitask.py:Staged`)."""
        self.stage = stage


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the module in evaluation mode, and restore its mode afterwards."""
    training = module.training
    module.eval()
    try:
        yield module
    finally:
        module.train(training)
