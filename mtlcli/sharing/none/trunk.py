"""No sharing: a copy of the backbone for each task. This is the single-task baseline, in the same
run and with equal data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.tasks.base import Encoded


class NoSharing(Trunk):
    """One backbone for each head. All start from the same weights. A task that uses another task's
    head uses its backbone too."""

    packs = True
    first_token = True

    def __init__(
        self, config: Any, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self.backbones = PerTask.copies(make_backbone(), self.heads)

    def encode(self, task: str, batch: Batch) -> Encoded:
        """Return token states and pooled vectors of the task's own backbone."""
        return self.backbones[self.owners[task]](batch)
