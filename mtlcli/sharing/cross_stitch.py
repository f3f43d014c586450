"""Cross-stitch: a copy of the network for each task, and units that mix the copies' states
linearly.

Misra et al. 2016, "Cross-stitch Networks for Multi-task Learning": after a layer, x_k <- sum_j
alpha_kj x_j, with alpha learned from a start near the identity, at 100 to 1000 times the learning
rate of the rest. The identity is `none` but for the embeddings; 1/K everywhere makes all streams
equal.

The paper copies the whole network; here embeddings are one for all tasks: a task's batch would need
the tables of all, which are most of a small model's weights. Above the last unit a task needs only
its own copy. The paper has a unit for each channel; here one matrix for each layer, as Ruder et al.
2019 have it, says who listens to whom. Which layers have a unit is free; the paper puts one behind
every pooling layer.
"""

from __future__ import annotations

from collections.abc import Callable

from mtlcli.config.sharing import CrossStitchSharing
from mtlcli.models.backbone import Backbone
from mtlcli.models.streams import Stitched


class CrossStitch(Stitched):
    """K copies of the layers with a K x K matrix after each chosen one."""

    def __init__(
        self,
        config: CrossStitchSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(config, make_backbone, owners, subspaces=1)
