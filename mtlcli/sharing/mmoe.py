"""MMoE: experts that all tasks share, and a gate for each task.

Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts": y_k = sum_i g_k(x)_i f_i(x) with g_k(x) = softmax(W_k x). In the paper x is an
example; here it is a token's state, and the experts are feed-forward blocks of a transformer:
copies of the block of a layer with all that the library keeps in it (in BERT-like layers its
residual and norm too), or new residual blocks on top. Copies of one block start equal but for
`noise`: while they are equal, a gate has no gradient, and the experts' gradients differ only by the
random weights of their gates. The paper has 8 experts of a few units each; the default is 4, since
an expert here is as large as a feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable

from mtlcli.config.sharing import MMoESharing
from mtlcli.models.backbone import Backbone
from mtlcli.models.experts import LayerExperts


class MMoE(LayerExperts):
    """One backbone with mixtures of shared experts in it."""

    def __init__(
        self, config: MMoESharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(config, make_backbone, owners, shared=config.experts, own=0)
