"""A sharing strategy: hard sharing, with a vector for each task by which the states behind the last
layer are multiplied.

The vectors start at 1, so that the model starts as that of `hard` (the idea of (IA)3, Liu et al.
2022, behind the backbone instead of in its layers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import Trunk
from mtlcli.models.per_task import PerTask
from mtlcli.tasks.base import Encoded


class Scale(nn.Module):
    """The vector of one task: (hidden,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        """Return states (..., hidden), multiplied."""
        return states * self.values


class Rescaled(Trunk):
    """One backbone, and a scale for each head. A batch holds inputs of one task (`joint` is
    False), so the scale of that task is the only one that it needs."""

    def __init__(
        self, config: Any, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(owners)
        self.backbone = make_backbone()
        # What lies below a PerTask is private to its task, without more words.
        self.scales = PerTask({owner: Scale(self.backbone.hidden) for owner in self.heads})

    def encode(self, task: str, batch: Batch) -> Encoded:
        """Return the backbone's states, multiplied by the vector of the task."""
        encoded = self.backbone(batch)
        scale = self.scales[self.owners[task]]
        return Encoded(scale(encoded.hidden), scale(encoded.pooled), encoded.mask)

    def measures(self) -> dict[str, Any]:
        """Return how far the vector of each task is from 1: the root mean square."""
        scales = self.scales.items()
        return {
            "moved": {
                owner: (scale.values.detach() - 1).square().mean().sqrt().item()  # type: ignore[operator]
                for owner, scale in scales
            }
        }
