"""FreeLB: the loss is that of word embeddings which are moved to make it larger.

Zhu et al. 2020, "FreeLB: Enhanced Adversarial Training for Natural Language Understanding"
(algorithm 1). With x the word embeddings of an input of n tokens of width H, the change begins at

    d_0 ~ U(-radius, radius) / sqrt(n H)

and `steps` passes give the losses L_t = L(f(x + d_(t - 1)), y). Between them the change goes up:

    g_t = gradient of L_t with respect to d_(t - 1)
    d_t = d_(t - 1) + step_size g_t / |g_t|, shortened to |d_t| <= radius

with the Frobenius norm over the input. The gradient of the model is the mean of those of all L_t
(the paper's "free" gradients), so the loss of the task is the mean of the L_t. As in section 3.3 of
the paper, all passes of a batch have the same dropout.

Differences from the authors' code:
- There, each pass goes backwards before the next begins. Here all passes of a micro-batch are kept
  until their one backward pass, and take `steps` times the memory of one; `runner.accumulation`
  lowers it.
- There, the norm has no bound (`adv_max_norm` 0) in some tasks, and `adv_init_mag` is set apart
  from it. Here `radius` is both, as in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from mtlcli.augmentation.base import Augmentation
from mtlcli.config.augmentation import Augmenting, augmentations
from mtlcli.config.section import section

if TYPE_CHECKING:
    from torch import Tensor

    from mtlcli.data.batches import Batch
    from mtlcli.models.multitask import MultiTaskModel, TaskOutput

TINY = 1e-30
"""What a gradient of zero is divided by."""


@augmentations.register("freelb", "FreeLB")
@section
class FreeLBAugmentation(Augmenting):
    """Losses for word embeddings that are moved to make them larger (Zhu et al. 2020, FreeLB).

    When it helps: a pretrained model on a small data set. The paper reports gains in fine-tuning on
    GLUE.

    Cost: `steps` passes for each batch, which are in memory together; `runner.accumulation` lowers
    that.
    """

    perturbs: ClassVar[bool] = True
    """True, because word embeddings are moved."""
    name: Literal["freelb"] = "freelb"
    """Augmentation."""
    steps: Annotated[int, Ge(1), Le(100)] = 3
    """Passes over a batch, each with the word embeddings moved further; the paper's K."""
    step_size: Annotated[float, Gt(0), Le(1000)] = 0.1
    """Length of a step of ascent; the paper's alpha."""
    radius: Annotated[float, Gt(0), Le(1000)] = 0.3
    """Largest norm of the change of an input; the paper's epsilon."""


class FreeLB(Augmentation):
    """Losses for word embeddings that are moved to make them larger."""

    def output(self, model: MultiTaskModel, task: str, batch: Batch) -> TaskOutput:
        import torch

        from mtlcli.augmentation.embeddings import encoded_with
        from mtlcli.models.multitask import TaskOutput

        config = self.config
        change = self._start(model, batch)
        dropout = _states(change.device)
        found: list[TaskOutput] = []
        for number in range(config.steps):
            _restore(dropout)
            last = number == config.steps - 1
            # Losses without a gradient (`Passes.losses`) need one to go up.
            with torch.set_grad_enabled(torch.is_grad_enabled() or not last):
                change.requires_grad_(not last)
                encoded = encoded_with(model, task, batch, change)
                found.append(model.output(task, batch, encoded))
                if last:
                    break
                (gradient,) = torch.autograd.grad(found[-1].loss, change, retain_graph=True)
            change = change.detach() + config.step_size * gradient / _norm(gradient)
            change = change * (config.radius / _norm(change)).clamp(max=1)
        loss = torch.stack([each.loss for each in found]).mean()
        return TaskOutput(loss, found[0].outputs)

    def _start(self, model: MultiTaskModel, batch: Batch) -> Tensor:
        """Return the change from which the ascent begins: (batch, length, width), 0 in the
        padding."""
        import torch

        from mtlcli.augmentation.embeddings import shape_of

        mask = batch.attention_mask.unsqueeze(-1)
        _, _, width = shape_of(model, batch)
        scale = self.config.radius / (mask.sum(dim=(1, 2), keepdim=True) * width).sqrt()
        shape = shape_of(model, batch)
        return (2 * torch.rand(shape, device=mask.device) - 1) * scale * mask


def _norm(change: Tensor) -> Tensor:
    """Return the norm of each input's part of (batch, length, width): (batch, 1, 1)."""
    return change.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=TINY)


def _states(device: Any) -> tuple[Tensor, Any]:
    """Return the states of the generators that dropout draws from."""
    import torch

    there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), (device, there)


def _restore(states: tuple[Tensor, Any]) -> None:
    """Put the states of the generators back."""
    import torch

    here, (device, there) = states
    torch.set_rng_state(here)
    if there is not None:
        torch.cuda.set_rng_state(there, device)
