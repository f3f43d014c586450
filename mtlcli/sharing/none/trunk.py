"""No sharing: a copy of the backbone for each task. This is the single-task baseline, in the same
run and with equal data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Merges, Trunk
from mtlcli.models.per_task import PerTask, key_of


class NoSharing(Trunk, Merges):
    """One backbone for each head. All start from the same weights. A task that uses another task's
    head uses its backbone too."""

    packs = True
    first_token = True

    def __init__(
        self, config: Any, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self.backbones = PerTask.copies(make_backbone(), self.heads)

    @classmethod
    def plain_backbones(cls, owners: Sequence[str]) -> dict[str, str]:
        """Return the name of the backbone of each head."""
        return {owner: f"backbones.{key_of(owner)}" for owner in owners}

    def backbone_of(self, task: str) -> Backbone:
        """Return the task's own backbone."""
        backbone: Any = self.backbones[self.owners[task]]
        return backbone

    def merged(self, task: str) -> Backbone:
        """Return the task's own backbone."""
        return self.backbone_of(task)
