"""The losses over classes that several task types share.

Focal loss: Lin et al. 2017, "Focal Loss for Dense Object Detection". The cross entropy of an item
is multiplied by (1 - p)^gamma, where p is the probability that the model gives to the right class,
so that items that are right already weigh less.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, logsigmoid

from mtlcli.data.features import NO_TARGET

LEAST = 1e-6
"""The least 1 - p: below it, the derivative of a power less than 1 is not finite."""


def class_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Return the cross entropy, or the focal loss, summed over items: scalar, fp32.

    logits: (items, classes). targets: (items,), class ids, or NO_TARGET for an item that is left
    out. weight: (classes,), the weight of each class. A `focal_gamma` of 0 gives the cross entropy.
    """
    logits = logits.float()
    losses = cross_entropy(
        logits,
        targets,
        weight=weight,
        ignore_index=NO_TARGET,
        reduction="none" if focal_gamma else "sum",
        label_smoothing=label_smoothing,
    )
    if not focal_gamma:
        return losses
    right = targets.clamp(min=0).unsqueeze(1)
    missing = 1 - logits.log_softmax(dim=1).gather(1, right).squeeze(1).exp()
    return (missing.clamp(min=LEAST) ** focal_gamma * losses).sum()


def binary_factor(logits: Tensor, targets: Tensor, focal_gamma: float) -> Tensor:
    """Return the factor (1 - p)^gamma of the binary cross entropy of each label, of the shape of
    `logits`: fp32."""
    missing = torch.where(targets > 0, -logits, logits).sigmoid()
    return missing.clamp(min=LEAST) ** focal_gamma


def class_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return KL(P || Q) + KL(Q || P) of the classes, summed over items: scalar, fp32. logits,
    others: (items, classes) of P and Q."""
    one, other = logits.float().log_softmax(dim=1), others.float().log_softmax(dim=1)
    return ((one.exp() - other.exp()) * (one - other)).sum()


def binary_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return KL(P || Q) + KL(Q || P) of each label's yes or no, the mean over labels summed over
    items: scalar, fp32. logits, others: (items, labels) of P and Q."""
    one, other = logits.float(), others.float()
    return ((one.sigmoid() - other.sigmoid()) * (one - other)).mean(dim=1).sum()


def class_distance(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(P || Q) of the classes, with the distributions P of the teacher and Q of the
    logits at the temperature T, summed over items: scalar, fp32 (Hinton et al. 2015). The factor
    keeps the gradient as large at every temperature. logits, teacher: (items, classes)."""
    mine = (logits.float() / temperature).log_softmax(dim=1)
    theirs = (teacher.float() / temperature).log_softmax(dim=1)
    return temperature**2 * kl_div(mine, theirs, reduction="sum", log_target=True)


def binary_distance(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(P || Q) of each label's yes or no, with the probabilities P of the teacher and
    Q of the logits at the temperature T, the mean over labels summed over items: scalar, fp32.
    logits, teacher: (items, labels)."""
    mine, theirs = logits.float() / temperature, teacher.float() / temperature
    parts = [
        (sign * theirs).sigmoid() * (logsigmoid(sign * theirs) - logsigmoid(sign * mine))
        for sign in (1, -1)
    ]
    return temperature**2 * (parts[0] + parts[1]).mean(dim=1).sum()
