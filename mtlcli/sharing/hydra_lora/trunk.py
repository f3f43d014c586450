"""HydraLoRA: low-rank changes of one backbone's weight matrices with one A and several B, among
which a router chooses for each token. All of it is shared: no part knows the task.

Tian et al. 2024, "HydraLoRA: An Asymmetric LoRA Architecture for Efficient Fine-Tuning". The output
of a matrix W for a token x becomes

    W x + alpha / r sum_i p_i B_i A x    with p = softmax(R x)

with A (r x in) and R (matrices x in) random and the B_i (out x r) zero at the start, so that at the
start the backbone's output is unchanged.

Differences from the paper and its code (github.com/Clin0212/HydraLoRA):
- The paper freezes W (`frozen=true`). By default, W is trained here.
- The paper finds the number of B by clustering the data; here it is an option. The code's loss that
  balances the routers (off by default there) and its dropout in front of A are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtlcli.sharing.hydra_lora import HydraLoRASharing
from mtlcli.sharing.parts.low_rank import ChangedMap, LowRankTrunk, random_down, sizes_of


class HydraLoRAMap(ChangedMap):
    """A linear map with the change of HydraLoRA."""

    def __init__(self, linear: nn.Module, config: HydraLoRASharing) -> None:
        super().__init__(linear, config)
        inputs, outputs = sizes_of(linear)
        self.down = random_down(config.rank, inputs)
        self.router = random_down(config.matrices, inputs)
        self.ups = nn.Parameter(torch.zeros(config.matrices, outputs, config.rank))

    def change(self, states: Tensor) -> Tensor:
        """Return sum_i p_i B_i A times the states."""
        shares = nn.functional.linear(states, self.router).float().softmax(-1)
        inside = nn.functional.linear(states, self.down)
        # One product with all B side by side: (..., matrices, r), each part times its share.
        parts = (shares.to(inside.dtype).unsqueeze(-1) * inside.unsqueeze(-2)).flatten(-2)
        return nn.functional.linear(parts, self.ups.transpose(0, 1).flatten(1))


class HydraLoRA(LowRankTrunk):
    """One backbone, frozen or not, with HydraLoRA's changes."""

    new_tasks = True

    unmergeable = "a router weights the changes of a matrix anew for each token"

    config: HydraLoRASharing

    def changed(self, linear: nn.Module) -> HydraLoRAMap:
        """Return a linear map with its change."""
        return HydraLoRAMap(linear, self.config)

    def same_for(self, one: str, other: str) -> bool:
        """Return True, as no part knows the task."""
        return True
