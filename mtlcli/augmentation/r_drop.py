"""R-Drop: two passes with different dropout shall give the same outputs.

Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks". An input x with the label y
goes through the model twice. Dropout makes two outputs P_1 and P_2 of it, and the loss is

    (L(P_1, y) + L(P_2, y)) / 2 + alpha / 2 (KL(P_1 || P_2) + KL(P_2 || P_1))

Gradients go through both sides of both divergences, as in the authors' code.

- The paper's loss is the sum of the two cross entropies. Here it is their mean, so that the loss
  of a task is as large as without R-Drop, and the scale between tasks is kept. An `alpha` here
  has the effect of 2 `alpha` in the paper.
- For numbers, whose loss is a squared error, the sum of the divergences is the squared difference
  (that of two normal distributions with variance 1); for several labels it is the mean over the
  labels, as in their loss. See `TaskType.divergence`.
- The mean of the divergences is taken over the inputs, without class weights.
- The authors put both copies into one batch. Here they are two passes, with the same result and the
  same memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Gt, Le

from mtlcli.augmentation.base import Augmentation
from mtlcli.config.augmentation import Comparing, augmentations
from mtlcli.config.section import section

if TYPE_CHECKING:
    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput


@augmentations.register("r_drop", "RDrop")
@section
class RDropAugmentation(Comparing):
    """Two passes with different dropout, whose outputs are pulled together (Liang et al. 2021,
    R-Drop).

    When it helps: small data sets, and models with dropout. The paper reports gains in fine-tuning
    on GLUE.

    Cost: two passes for each batch.
    """

    needs_dropout: ClassVar[bool] = True
    """True, because two passes without dropout are equal."""
    name: Literal["r_drop"] = "r_drop"
    """Augmentation."""
    alpha: Annotated[float, Gt(0), Le(1000)] = 1.0
    """Factor of the divergence between the outputs of the two passes."""


class RDrop(Augmentation):
    """Two passes with different dropout."""

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        from mtlcli.models.multitask import TaskOutput

        first, second = (model.output(task, batch, model.encoded(task, batch)) for _ in range(2))
        apart = model.tasks[task].divergence(first.outputs, second.outputs) / batch.examples
        loss = (first.loss + second.loss) / 2 + self.config.alpha / 2 * apart
        return TaskOutput(loss, first.outputs)
