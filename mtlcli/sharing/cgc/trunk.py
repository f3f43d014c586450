"""CGC, customized gate control: experts that all tasks share, experts of each task's own, and a
gate for each task over both.

Tang et al. 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for
Personalized Recommendations", section 4.1: y_k = sum_i g_k(x)_i f_i(x) over the task's own experts
and the shared ones, g_k(x) = softmax(W_k x). Without private experts, CGC is MMoE. Its experts are
the blocks that mmoe.py describes, and its gates act on tokens as there.
"""

from __future__ import annotations

from collections.abc import Callable

from mtlcli.models.backbone import Backbone
from mtlcli.sharing.cgc import CGCSharing
from mtlcli.sharing.mmoe.trunk import LayerExperts


class CGC(LayerExperts):
    """One backbone with mixtures of shared and private experts in it."""

    def __init__(
        self, config: CGCSharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(config, make_backbone, owners, shared=config.shared, own=config.own)
