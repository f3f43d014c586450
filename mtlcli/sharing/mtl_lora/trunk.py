"""MTL-LoRA: low-rank changes of one backbone's weight matrices, made of factors that all tasks
share and of small parts for each task.

Yang et al. 2024, "MTL-LoRA: Low-Rank Adaptation for Multi-Task Learning". A matrix W of the
backbone becomes for task t

    W + alpha / r (sum_i w_ti B_i) L_t A    with w_t = softmax(v_t / temperature)

where A (r x in, random) and the B_i (out x r, zero at the start) belong to all tasks, and L_t (r x
r, or its diagonal, the identity at the start) and v_t to the task. At the start the backbone's
output is unchanged.

Differences from the paper and its code (github.com/pUmpKin-Co/MTL-LoRA):
- The paper freezes W (`frozen=true`) and changes the four matrices of attention. By default, W is
  trained here, and all linear maps of the layers are changed.
- L_t is kept as its difference from the identity, so that weight decay pulls it there.
- There is no dropout in front of A.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.models.per_task import PerTask
from mtlcli.models.shards import whole
from mtlcli.sharing.mtl_lora import MTLLoRASharing
from mtlcli.sharing.parts.low_rank import (
    MergingTrunk,
    TaskChangedMap,
    alike,
    random_down,
    sizes_of,
)


class Own(nn.Module):
    """What a task has for itself: the difference of L_t from the identity, and v_t."""

    def __init__(self, config: MTLLoRASharing) -> None:
        super().__init__()
        rank, bound = config.rank, 1 / math.sqrt(config.matrices)
        shape = (rank, rank) if config.transform == "full" else (rank,)
        self.transform = nn.Parameter(torch.zeros(shape))
        self.mixture = nn.Parameter(torch.empty(config.matrices).uniform_(-bound, bound))


class MTLLoRAMap(TaskChangedMap):
    """A linear map with the change of MTL-LoRA."""

    def __init__(self, linear: nn.Module, config: MTLLoRASharing, heads: list[str]) -> None:
        super().__init__(linear, config)
        inputs, outputs = sizes_of(linear)
        self.temperature = config.temperature
        self.down = random_down(config.rank, inputs)
        self.ups = nn.Parameter(torch.zeros(config.matrices, outputs, config.rank))
        self.own = PerTask({name: Own(config) for name in heads})

    def factors(self, owner: str) -> tuple[Tensor, Tensor]:
        """Return L_t A (r, in) and the mixture of the B_i (out, r)."""
        transform: Any = self.own[owner].transform
        turned = (
            transform @ self.down if transform.ndim == 2 else transform.unsqueeze(1) * self.down
        )
        weights = self.weights(owner).to(self.ups.dtype)
        return self.down + turned, torch.einsum("i,ior->or", weights, self.ups)

    def weights(self, owner: str) -> Tensor:
        """Return w_t (matrices,), in fp32."""
        mixture: Any = self.own[owner].mixture
        return (whole(mixture).float() / self.temperature).softmax(0)


class MTLLoRA(MergingTrunk):
    """One backbone, frozen or not, with MTL-LoRA's changes."""

    new_tasks = True

    config: MTLLoRASharing

    def changed(self, linear: nn.Module) -> MTLLoRAMap:
        """Return a linear map with its change."""
        return MTLLoRAMap(linear, self.config, self.heads)

    def measures(self) -> dict[str, Any]:
        """Return `cosines`: the cosines between the heads' weights of the B_i, as means over all
        maps; one row for each head."""
        with torch.no_grad():
            weights = [
                torch.stack([each.weights(name) for name in self.heads])
                for each in self.maps
                if isinstance(each, MTLLoRAMap)
            ]
            return {"cosines": alike(weights)}
