"""SMART: outputs shall stay where they are when word embeddings are moved a little.

Jiang et al. 2020, "SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models
through Principled Regularized Optimization", the smoothness-inducing adversarial regularisation
(section 2.1, algorithm 1). With x the word embeddings of an input, f(x) its output and l(P, Q) =
KL(P || Q) + KL(Q || P), or (P - Q)^2 for numbers, the loss is

    L(f(x), y) + weight max_{|d|_inf <= radius} l(f(x + d), f(x))

The maximum is approached by `steps` steps of ascent from d ~ N(0, noise^2):

    g = gradient of l(f(x + d), f(x)) with respect to d
    d <- d + step_size g / |g|_inf, cut to |d|_inf <= radius

with |g|_inf over the whole input. The gradient of the model goes through both f(x + d) and f(x).

Differences from the paper and the authors' code (mt-dnn):
- The paper's second part, Bregman proximal point optimisation (section 2.2), which keeps a moving
  average of all parameters, is left out, as in the authors' code.
- The authors' code normalises d + step_size g as a whole, token by token, and does not cut it to
  the radius. Here the paper's projection is used.
- The authors' code takes no gradient through the second distribution of each divergence. Here the
  gradient is that of the formula.
- Numbers are compared by their squared difference, several labels by the mean over labels (see
  `TaskType.divergence`); the mean over inputs is taken without class weights.
- Dropout draws other masks in each pass, as in the authors' code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from mtlcli.augmentation.base import Augmentation
from mtlcli.config.augmentation import Comparing, augmentations
from mtlcli.config.section import section

if TYPE_CHECKING:
    from torch import Tensor

    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput

TINY = 1e-30
"""What a gradient of zero is divided by."""


@augmentations.register("smart", "Smart")
@section
class SmartAugmentation(Comparing):
    """Outputs are pulled to those for word embeddings that are moved in the worst direction (Jiang
    et al. 2020, SMART).

    When it helps: a pretrained model that overfits a small data set. The paper reports gains in
    fine-tuning on GLUE.

    Cost: 2 + `steps` passes for each batch, and `steps` backward passes of their own.
    """

    perturbs: ClassVar[bool] = True
    """True, because word embeddings are moved."""
    name: Literal["smart"] = "smart"
    """Augmentation."""
    weight: Annotated[float, Gt(0), Le(1000)] = 1.0
    """Factor of the divergence in the loss; the paper's lambda_s."""
    radius: Annotated[float, Gt(0), Le(1000)] = 1e-5
    """Largest change of a number of a word embedding; the paper's epsilon."""
    step_size: Annotated[float, Gt(0), Le(1000)] = 1e-3
    """Length of a step of ascent in its largest number; the paper's eta."""
    noise: Annotated[float, Gt(0), Le(1000)] = 1e-5
    """Standard deviation of the change from which the ascent begins; the paper's sigma."""
    steps: Annotated[int, Ge(1), Le(100)] = 1
    """Steps of ascent. Each takes one more forward and backward pass."""


class Smart(Augmentation):
    """Outputs are pulled to those for the worst small change of the word embeddings."""

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        from mtlcli.models.multitask import TaskOutput

        plain = model.output(task, batch, model.encoded(task, batch))
        moved = self._ascend(model, task, batch, plain)
        apart = self._apart(model, task, batch, moved, plain.outputs) / batch.examples
        return TaskOutput(plain.loss + self.config.weight * apart, plain.outputs)

    def _ascend(self, model: MultiTaskModel, task: str, batch: Batch, plain: TaskOutput) -> Tensor:
        """Return the change of the word embeddings that moves the outputs most: (batch, length,
        width)."""
        import torch

        from mtlcli.augmentation.embeddings import shape_of

        config = self.config
        fixed = {name: each.detach() for name, each in plain.outputs.items()}
        shape = shape_of(model, batch)
        change = torch.randn(shape, device=batch.input_ids.device) * config.noise
        for _ in range(config.steps):
            with torch.enable_grad():
                change.requires_grad_()
                apart = self._apart(model, task, batch, change, fixed)
                (gradient,) = torch.autograd.grad(apart, change)
            largest = gradient.abs().amax(dim=(1, 2), keepdim=True).clamp(min=TINY)
            change = change.detach() + config.step_size * gradient / largest
            change = change.clamp(-config.radius, config.radius)
        return change

    def _apart(
        self,
        model: MultiTaskModel,
        task: str,
        batch: Batch,
        change: Tensor,
        outputs: dict[str, Tensor],
    ) -> Tensor:
        """Return the divergence of the outputs for changed word embeddings from `outputs`, summed
        over the inputs."""
        from mtlcli.augmentation.embeddings import encoded_with

        encoded = encoded_with(model, task, batch, change)
        return model.tasks[task].divergence(model.head_outputs(task, batch, encoded), outputs)
