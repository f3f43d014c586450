"""Cross-stitch: a copy of the network for each task, and units that mix the copies' states
linearly.

Misra et al. 2016, "Cross-stitch Networks for Multi-task Learning": after a layer, x_k <- sum_j
alpha_kj x_j, with alpha learned from a start near the identity, at 100 to 1000 times the learning
rate of the rest. With the identity, the model is `none` except for the embeddings; with 1/K
everywhere, all streams are equal.

The paper copies the whole network; here all tasks share the embeddings, since otherwise a task's
batch would need the tables of all tasks, which are most of a small model's weights. Above the last
unit a task needs only its own copy. The paper has a unit for each channel; here each layer has one
matrix, as in Ruder et al. 2019, with the weight of each task's stream in each other's. The config
chooses the layers that have a unit; the paper puts one behind every pooling layer.
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
