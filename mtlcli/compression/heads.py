"""Which attention heads matter least, over all tasks.

Michel et al. 2019, "Are Sixteen Heads Really Better than One?": with a mask variable xi_h, which is
1, in front of what a head h gives, the importance of the head is

    I_h = E_x | dL(x) / d xi_h |

over inputs x, where L is the loss. As in the paper, the importances of each layer are divided by
their L2 norm (Molchanov et al. 2017), and the heads of all layers are then ranked together. Here
there are several tasks: the importance of each is normalised like that, so that no task has more to
say because its losses are larger, and the sum over tasks is ranked. Differences: x are rows of the
train split, where the authors judge by the validation split, so that no reported row is seen; every
layer keeps a head; the ranking is made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.models.multitask import MultiTaskModel
from mtlcli.models.pruned import attentions, head_counts


@contextmanager
def masked(network: Any, masks: Sequence[Tensor]) -> Iterator[None]:
    """Multiply what each head of a network like BERT's gives by its mask, within a `with` block.
    `masks`: for each layer, (batch, heads), or (heads) for all inputs."""

    def hook(mask: Tensor) -> Any:
        def multiplied(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            (states,) = inputs  # (batch, length, heads * size)
            factors = mask.unsqueeze(-2).unsqueeze(-1)
            return (states.unflatten(-1, (mask.shape[-1], -1)) * factors).flatten(-2)

        return multiplied

    handles = [
        attention.output.dense.register_forward_pre_hook(hook(mask))
        for attention, mask in zip(attentions(network), masks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def importance(model: MultiTaskModel, task: str, batches: Iterable[Batch]) -> list[Tensor]:
    """Return the importance of each head for a task: for each layer (heads), the mean over the
    inputs of the batches. The model has one plain backbone, and packs nothing."""
    network = model.trunk.backbone.network
    counts = head_counts(network)
    place = next(model.parameters()).device
    total = [torch.zeros(count, device=place) for count in counts]
    inputs = 0
    for batch in batches:
        # A mask for each input: one pass gives the gradients of all inputs apart.
        masks = [
            torch.ones(len(batch), count, device=place, requires_grad=True) for count in counts
        ]
        with masked(network, masks):
            encoded = model.encoded(task, batch)
        loss = model.tasks[task].loss(model.head_outputs(task, batch, encoded), batch)
        gradients = torch.autograd.grad(loss, masks)
        total = [sum_ + each.abs().sum(0) for sum_, each in zip(total, gradients, strict=True)]
        inputs += len(batch)
    return [each / inputs for each in total]


def over_tasks(found: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the sum over tasks of the importance of each head, each layer's divided by its L2
    norm before."""
    layers = zip(*found, strict=True)
    return [
        torch.stack([nn.functional.normalize(each, dim=0) for each in of]).sum(0) for of in layers
    ]


def kept_heads(scores: Sequence[Tensor], remove: int) -> list[list[int]]:
    """Return the heads of each layer that are left when the `remove` with the least scores are
    gone, of which there are enough; every layer keeps one. Among equal scores, the first go."""
    kept = [list(range(len(each))) for each in scores]
    order = sorted(
        (float(score), layer, head)
        for layer, each in enumerate(scores)
        for head, score in enumerate(each)
    )
    for _, layer, head in order:
        if remove and len(kept[layer]) > 1:
            kept[layer].remove(head)
            remove -= 1
    return kept
