"""PLE, progressive layered extraction: several levels of shared and private experts on top of the
backbone.

Tang et al. 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for
Personalized Recommendations", 4.2. At each level every task has a stream x_k, and there is a shared
stream x_s. A task's experts read its stream and the shared experts read the shared one; the next
x_k mixes the task's experts and the shared ones by a gate on x_k, and the next x_s mixes the
experts of all tasks and the shared ones by a gate on x_s. The last level has no shared gate: it is
CGC. All streams begin as the backbone's token states.

By way of the shared stream, every loss depends on the experts of all tasks in the levels below the
last, and on the gates of all tasks in the levels below the last but one; elsewhere, a loss depends
on the experts and gates of no other task. What every loss depends on is stacked and computed in
batched products.

Levels lie on top of the backbone: inside its layers, the streams of all tasks would each have to
pass through the rest of the network. The paper's experts are dense layers; here they are residual
feed-forward blocks of a transformer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtlcli.models.backbone import Backbone
from mtlcli.models.forward_pass import ForwardPass, current
from mtlcli.models.per_task import PerTask, TaskModules
from mtlcli.sharing.mmoe.trunk import Mixture
from mtlcli.sharing.parts.experts import Blocks, ExpertTrunk, Load, mix
from mtlcli.sharing.ple import PLESharing


class Level(nn.Module):
    """A level below the last: experts of K tasks, in their order, then the shared ones; a gate for
    each task and for the shared stream."""

    def __init__(self, trunk: PLE, config: PLESharing, *, all_streams: bool) -> None:
        """`all_streams`: whether the level above needs the streams of all tasks, or only the stream
        of the batch's task and the shared one."""
        super().__init__()
        self._owners = trunk.heads
        self._own, self._shared, self._private = (
            config.own,
            config.shared,
            config.own * len(trunk.heads),
        )
        self._all_streams = all_streams
        self.experts = Blocks(self._private + self._shared, trunk.backbone.hidden, trunk.std)
        gates = {owner: trunk.gate(self._own + self._shared) for owner in trunk.heads}
        # With all streams, the losses of all tasks depend on these gates, so they are not private.
        self.gates = TaskModules(gates) if all_streams else PerTask(gates)
        self.shared_gate = trunk.gate(self._private + self._shared)
        self.load = Load(trunk.heads, self._own + self._shared)
        # A task may be named `shared`, but no task's name has a blank.
        self._shared_name = "shared" if "shared" not in trunk.heads else "shared stream"
        self.shared_load = Load([self._shared_name], self._private + self._shared)

    def forward(self, streams: Tensor) -> Tensor:
        """Return the streams for the level above: those of all tasks and the shared one, (K + 1,
        batch, length, hidden), or those of the batch's task and the shared one, (2, batch, length,
        hidden).

        `streams`: (K + 1, batch, length, hidden), the shared stream last, or (batch, length,
        hidden) where all streams begin.
        """
        passing = current(ForwardPass)
        begins = streams.ndim == 3
        if begins:
            outputs = self.experts(streams)
        else:
            shared_inputs = streams[-1:].expand(self._shared, -1, -1, -1)
            outputs = self.experts(
                torch.cat([streams[:-1].repeat_interleave(self._own, 0), shared_inputs])
            )
        following = []
        for number, owner in enumerate(self._owners):
            if owner == passing.owner or self._all_streams:
                mine = outputs[number * self._own : (number + 1) * self._own]
                weights = self.gates[owner](streams if begins else streams[number])
                following.append(mix(torch.cat([mine, outputs[self._private :]]), weights))
                if owner == passing.owner:
                    self.load.add(owner, weights, passing.mask)
        weights = self.shared_gate(streams if begins else streams[-1])
        self.shared_load.add(self._shared_name, weights, passing.mask)
        return torch.stack([*following, mix(outputs, weights)])


class PLE(ExpertTrunk):
    """One backbone, and levels of experts on top of it."""

    packs = True

    def __init__(
        self, config: PLESharing, make_backbone: Callable[[], Backbone], owners: dict[str, str]
    ) -> None:
        super().__init__(config, make_backbone, owners)
        self.levels = nn.ModuleDict(
            {
                f"level{number}": Level(self, config, all_streams=number < config.levels - 1)
                for number in range(1, config.levels)
            }
        )
        self.last = Mixture(
            self.blocks, self.gate, self.heads, shared=config.shared, own=config.own
        )
        self.put_on_top(self._extract)

    def _extract(self, hidden: Tensor) -> Tensor:
        streams = hidden
        for level in self.levels.values():
            streams = level(streams)
        return self.last(hidden) if streams is hidden else self.last(streams[0], common=streams[1])

    def loads(self) -> dict[str, list[Load]]:
        """Return the loads by `level N`, from 1."""
        levels: list[Level] = list(self.levels.values())  # type: ignore[arg-type]
        found = {
            f"level {number}": [level.load, level.shared_load]
            for number, level in enumerate(levels, 1)
        }
        return found | {f"level {len(found) + 1}": [self.last.load]}
