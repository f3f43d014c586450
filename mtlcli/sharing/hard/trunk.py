"""Hard parameter sharing: one backbone for all tasks, one head each.

Caruana 1997, "Multitask Learning"; with a transformer encoder and per-task output layers: Liu et
al. 2019, MT-DNN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Merges, Trunk


class Hard(Trunk, Merges):
    """One backbone that every task reads."""

    joint = True
    packs = True
    first_token = True

    def __init__(
        self, config: Any, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self.backbone = make_backbone()

    @classmethod
    def plain_backbones(cls, owners: Sequence[str]) -> dict[str, str]:
        """Return the name of the one backbone for each head."""
        return dict.fromkeys(owners, "backbone")

    def same_for(self, one: str, other: str) -> bool:
        """Return True, as nothing below the heads belongs to one task."""
        return True

    def merged(self, task: str) -> Backbone:
        """Return the backbone."""
        return self.backbone
