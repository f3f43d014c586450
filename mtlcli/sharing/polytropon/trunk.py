"""Polytropon: an inventory of skills, which are low-rank changes of one backbone's weight matrices,
and for each task a learned mixture of them.

Ponti et al. 2023, "Combining Modular Skills in Multitask Learning"; with several splits, the
multi-head routing of Caccia et al. 2023, "Multi-Head Adapter Routing for Cross-Task Generalization"
(MHR). A matrix W of the backbone becomes for task t

    W + alpha / r B_t A_t    with block k of A_t = sum_s z_tks A_ks, and of B_t = sum_s z_tks B_ks

where A_ks (r x in / splits, random) and B_ks (out / splits x r, zero at the start) are block k of
skill s. A_t has the blocks side by side, B_t one below the other. The mixture of a task is

    z_tk = p_tk / (sum_s p_tks)    with p_tk = sigmoid(v_tk)

and in training, with `noise`, p_tks = sigmoid(v_tks + log u - log(1 - u)), u drawn from (0, 1): a
relaxed Bernoulli distribution (Gumbel-sigmoid) of temperature 1. All skills are shared, each v_t is
the task's own, and each matrix has mixtures of its own, as in the authors' code (`finegrained`) and
in peft's `PolyConfig`.

Differences from the papers, the authors' code (github.com/microsoft/mttl) and peft:
- They freeze W (`frozen=true`). By default, W is trained here.
- They draw u for each example, here once a step for each task: all ranks and micro-batches then
  have the same mixture.
- alpha is 1 in peft.
- The layers are not peft's, which take no transposed matrices (GPT-2), mix anew for each example of
  a batch, and keep the v_t of all tasks in one parameter. Nor do the mixtures have the prior that
  Ponti et al. try (an Indian buffet process).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.errors import UserError
from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.multitask import DrawsOnceAStep, ParameterTable
from mtlcli.models.per_task import PerTask
from mtlcli.models.shards import whole
from mtlcli.sharing.parts.low_rank import (
    MergingTrunk,
    TaskChangedMap,
    alike,
    random_down,
    sizes_of,
)
from mtlcli.sharing.polytropon import PolytroponSharing

EPS = 1e-12
"""What keeps the sum of a mixture from being 0, as in peft."""


@dataclass
class RoutedPass(ForwardPass):
    """A pass that also holds the noise of the step."""

    noise: Tensor | None
    """(maps, heads, splits * skills), or None where nothing is drawn."""


class Logits(nn.Module):
    """The numbers v_t of a task: (splits * skills,)."""

    def __init__(self, config: PolytroponSharing) -> None:
        super().__init__()
        size = config.splits * config.skills
        self.values = nn.Parameter(torch.empty(size).uniform_(-1e-3, 1e-3))


class PolytroponMap(TaskChangedMap):
    """A linear map with a mixture of skills."""

    def __init__(
        self, linear: nn.Module, config: PolytroponSharing, heads: list[str], number: int
    ) -> None:
        """`number`: the map's place among all changed maps. Raises UserError when the map cannot be
        cut into blocks."""
        super().__init__(linear, config)
        inputs, outputs = sizes_of(linear)
        if inputs % config.splits or outputs % config.splits:
            raise UserError(
                f"a matrix of {outputs} x {inputs} numbers cannot be cut into {config.splits} "
                "blocks of equal size",
                where="sharing.splits",
                fix="type a number that divides the widths of the model, or choose other matrices "
                "with sharing.modules",
            )
        self.heads, self.number = heads, number
        self.shape = config.splits, config.skills
        self.down = random_down(*self.shape, config.rank, inputs // config.splits, inputs=inputs)
        self.up = nn.Parameter(torch.zeros(*self.shape, outputs // config.splits, config.rank))
        self.logits = PerTask({name: Logits(config) for name in heads})

    def factors(self, owner: str) -> tuple[Tensor, Tensor]:
        """Return A_t (r, in) and B_t (out, r)."""
        noise = current(RoutedPass).noise
        drawn = None if noise is None else noise[self.number, self.heads.index(owner)]
        mixture = self.mixture(owner, drawn).to(self.down.dtype)
        down = torch.einsum("ks,ksri->rki", mixture, self.down).flatten(1)
        return down, torch.einsum("ks,ksor->kor", mixture, self.up).flatten(0, 1)

    def mixture(self, owner: str, noise: Tensor | None = None) -> Tensor:
        """Return z_t (splits, skills), in fp32."""
        values: Any = self.logits[owner].values
        logits = whole(values).float()
        shares = (logits if noise is None else logits + noise).sigmoid().view(self.shape)
        return shares / (shares.sum(-1, keepdim=True) + EPS)


class Polytropon(MergingTrunk, DrawsOnceAStep):
    """One backbone, frozen or not, with an inventory of skills."""

    new_tasks = True

    config: PolytroponSharing

    def __init__(
        self,
        config: PolytroponSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(config, make_backbone, owners)
        self._noise: Tensor | None = None

    def changed(self, linear: nn.Module) -> PolytroponMap:
        """Return a linear map with its skills."""
        return PolytroponMap(linear, self.config, self.heads, len(self.maps))

    def draw(self, seed: int) -> None:
        """Draw the noise of a step."""
        if not self.config.noise:
            return
        shape = len(self.maps), len(self.heads), self.config.splits * self.config.skills
        uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        place = next(self.parameters()).device
        self._noise = uniform.logit(eps=torch.finfo(uniform.dtype).eps).to(place)

    def begin(self, task: str, batch: Batch) -> RoutedPass:
        """Return the pass of a batch, with the step's noise in training."""
        noise = self._noise if self.training else None
        return RoutedPass(self.parts(task, batch), batch.attention_mask, noise)

    def quiet_pass(self, owner: str) -> RoutedPass:
        """Return a pass of a task, without inputs and without noise."""
        return RoutedPass([(owner, 0)], torch.empty(0, 0, dtype=torch.bool), None)

    def parameter_table(self) -> ParameterTable:
        """Return what each parameter is. The mixtures have a learning rate of their own."""
        table = super().parameter_table()
        for module in self.modules():
            if isinstance(module, Logits):
                table.change(module.parameters(), lr=self.config.lr)
        return table

    def measures(self) -> dict[str, Any]:
        """Return `cosines`: the cosines between the heads' mixtures without noise, as means over
        all maps; one row for each head."""
        with torch.no_grad():
            mixtures = [
                torch.stack([each.mixture(name).flatten() for name in self.heads])
                for each in self.maps
                if isinstance(each, PolytroponMap)
            ]
            return {"cosines": alike(mixtures)}
