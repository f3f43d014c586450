"""Mixup of pooled vectors: a head learns from mixtures of two inputs and of their labels.

Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; for the pooled vectors of a
transformer: Sun et al. 2020, "Mixup-Transformer: Dynamic Data Augmentation for NLP Tasks". With
lambda ~ Beta(alpha, alpha) and a random partner j of each input i of the batch, the head h reads

    x = lambda p_i + (1 - lambda) p_j           p: the pooled vectors

and its loss is that of the mixed label lambda y_i + (1 - lambda) y_j. The cross entropy is linear
in the label, so for classes this is lambda L(h(x), y_i) + (1 - lambda) L(h(x), y_j), as in the
authors' code; so it is for the binary cross entropy of several labels. For numbers, the squared
error of the mixed number is taken.

As in Zhang et al.'s code, one lambda serves a batch, and partners are a random permutation of it;
here, of the micro-batch of a rank. An input may be its own partner.

Differences from Sun et al. 2020:
- There, lambda is 0.5, and mixup begins in the last half of the training. Here lambda is drawn,
  as in Zhang et al. 2018, with `alpha` 0.4 by default, and mixup has no beginning.
- Class weights, smoothed labels and the focal loss apply to each of the two losses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.augmentation.base import Augmentation
from mtlcli.config.augmentation import Augmenting, augmentations
from mtlcli.config.section import section
from mtlcli.config.task import Task

if TYPE_CHECKING:
    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput


@augmentations.register("mixup", "Mixup")
@section
class MixupAugmentation(Augmenting):
    """Mixtures of two pooled vectors and of their labels (Zhang et al. 2018; Sun et al. 2020).

    When it helps: small data sets with labels that can be mixed.

    Cost: one pass, as without it.
    """

    several_passes: ClassVar[bool] = False
    """False, because pooled vectors are mixed behind the only pass."""
    name: Literal["mixup"] = "mixup"
    """Augmentation."""
    alpha: Annotated[float, Gt(0), Le(1000)] = 0.4
    """Parameter of the distribution Beta(alpha, alpha) of the share of an input in a mixture: the
    smaller it is, the closer a mixture is to one of its inputs."""

    def unfit(self, task: Task) -> str | None:
        if task.mixes:
            return None
        return (
            f"mixup takes classes, labels or numbers of a pooled vector, and its type is "
            f"{task.type}"
        )


class Mixup(Augmentation):
    """Mixtures of two pooled vectors and of their labels."""

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        import torch

        from mtlcli.models.multitask import TaskOutput

        alpha = float(self.config.alpha)
        share = torch.distributions.Beta(alpha, alpha).sample().item()
        # The permutation is drawn on the CPU on every device.
        order = torch.randperm(len(batch)).to(batch.input_ids.device, non_blocking=True)
        encoded = model.encoded(task, batch)
        pooled = share * encoded.pooled + (1 - share) * encoded.pooled[order]
        outputs = model.head_outputs(task, batch, replace(encoded, pooled=pooled))
        kind = model.tasks[task]
        parts = [part * kind.loss(outputs, each) for part, each in kind.mixed(batch, order, share)]
        loss = torch.stack(parts).sum() / batch.denominator
        return TaskOutput(model.with_batch_loss(loss, batch, encoded), outputs)
