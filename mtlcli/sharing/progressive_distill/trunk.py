"""Progressive distillation: tasks enter in stages, and one backbone is held to what it said for the
earlier ones.

Li & Hoiem 2016, "Learning without Forgetting". From the second stage on, each batch has an
auxiliary loss that holds the outputs of the earlier tasks' heads for its inputs to those that they
gave when the stage began:

    strength * sum over earlier heads of KL(softmax(then / T) || softmax(now / T)),   T = 2

and for heads of regression tasks the squared difference. As in the paper only the new tasks' data
are drawn. The paper writes the cross entropy, which differs by a constant, and lets the earlier
heads learn on; here they stay as they are, so that every parameter's gradient comes from the tasks
it belongs to. Earlier heads are evaluated without dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from mtlcli.data.batches import Batch
from mtlcli.models.backbone import Backbone
from mtlcli.models.multitask import HasBatchLoss, Merges
from mtlcli.models.per_task import TaskModules
from mtlcli.sharing.parts.staged import StagedTrunk, without_dropout
from mtlcli.sharing.progressive_distill import ProgressiveDistillSharing
from mtlcli.tasks.base import Encoded, TaskType

TEMPERATURE = 2.0
"""T of the paper."""


class Distilled(StagedTrunk, HasBatchLoss, Merges):
    """One backbone, and from the second stage on a copy of its weights as they were when the stage
    began."""

    def __init__(
        self,
        config: ProgressiveDistillSharing,
        make_backbone: Callable[[], Backbone],
        owners: dict[str, str],
    ) -> None:
        super().__init__(config, owners)
        self.config = config
        self.backbone = make_backbone()
        self.register_buffer("newest", torch.zeros(()))
        # The copies are buffers, so that a resumed run has them. A buffer's name cannot have dots.
        # Parameters that are never trained need no copy.
        self._taught = {}
        if self.count > 1:
            self._taught = {
                name: f"then/{name.replace('.', '/')}"
                for name, each in self.backbone.named_parameters()
                if each.requires_grad
            }
        for name, buffer in self._taught.items():
            self.register_buffer(buffer, self.backbone.get_parameter(name).detach().clone())

    def enter(self, stage: int, *, anew: bool) -> None:
        """Keep a copy of the present weights when a stage after the first begins."""
        super().enter(stage, anew=anew)
        if anew and stage > 0:
            with torch.no_grad():
                for name, buffer in self._taught.items():
                    self.get_buffer(buffer).copy_(self.backbone.get_parameter(name))

    def merged(self, task: str) -> Backbone:
        """Return the backbone."""
        return self.backbone

    def batch_loss(
        self, batch: Batch, encoded: Encoded, heads: TaskModules, tasks: dict[str, TaskType[Any]]
    ) -> Tensor | None:
        """Return how far the outputs of the earlier heads have moved since the stage began, times
        `strength`: scalar, summed over the batch's inputs. None if there are no earlier heads or
        `strength` is 0."""
        earlier = [owner for owner in self.heads if self.stage_of(owner) < self.stage]
        if not earlier or self.config.strength == 0:
            return None
        with torch.no_grad(), without_dropout(self.backbone) as backbone:
            then = functional_call(
                backbone,
                {name: self.get_buffer(buffer) for name, buffer in self._taught.items()},
                (batch,),
            )
        total = encoded.pooled.new_zeros((), dtype=torch.float32)
        for owner in earlier:
            with without_dropout(heads[owner]) as head:
                fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
                now, kept = (functional_call(head, fixed, (each,)) for each in (encoded, then))
            for name, value in now.items():
                total = total + _distance(value, kept[name], tasks[owner], batch.attention_mask)
        term = self.config.strength * total
        if self.training:
            self.get_buffer("newest").copy_(term.detach() / len(batch))
        return term

    def same_for(self, one: str, other: str) -> bool:
        """Return True, as nothing below the heads belongs to one task."""
        return True

    def measures(self) -> dict[str, Any]:
        """Return `stage`, from 0, and `distillation`: the auxiliary loss of the newest batch in
        training, for one input."""
        return {"stage": self.stage, "distillation": float(self.get_buffer("newest"))}


def _distance(now: Tensor, then: Tensor, task: TaskType[Any], mask: Tensor) -> Tensor:
    """Return how far a head's outputs for a batch have moved, summed over inputs: scalar fp32."""
    now, then = now.float(), then.float()
    # A single score per input, as of an option or a candidate, has no softmax of its own.
    if task.loss_kind == "regression" or (not task.token_outputs and now.shape[-1] == 1):
        return (now - then).square().sum()
    if task.token_outputs:
        # Padding takes no part. Its logits get a finite number, because with -inf, 0 times the
        # difference of two infinities would not be a number.
        now, then = now.masked_fill(~mask, -1e4), then.masked_fill(~mask, -1e4)
    now, then = (torch.log_softmax(each / TEMPERATURE, -1) for each in (now, then))
    return (then.exp() * (then - now)).sum()
