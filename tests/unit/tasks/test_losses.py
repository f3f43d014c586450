"""The shared losses over classes, against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from mtlcli.tasks.losses import binary_factor, class_loss

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3
TARGETS = torch.tensor([0, 3, -100, 1, 2, 3])
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_that_of_the_paper(gamma: float) -> None:
    wanted = 0.0
    for row, target in zip(LOGITS.double().tolist(), TARGETS.tolist(), strict=True):
        if target >= 0:
            p = math.exp(row[target]) / sum(map(math.exp, row))
            wanted -= float(WEIGHT[target]) * (1 - p) ** gamma * math.log(p)
    found = class_loss(LOGITS, TARGETS, weight=WEIGHT, focal_gamma=gamma)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_without_gamma_it_is_the_cross_entropy() -> None:
    found = class_loss(LOGITS, TARGETS, weight=WEIGHT, label_smoothing=0.1)
    wanted = cross_entropy(LOGITS, TARGETS, WEIGHT, reduction="sum", label_smoothing=0.1)
    assert torch.equal(found, wanted)


def test_gradients_are_finite_where_the_model_is_certain() -> None:
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    class_loss(logits, torch.tensor([0, 0]), focal_gamma=0.5).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_the_factor_of_a_binary_decision() -> None:
    logits, targets = torch.tensor([[1.0, -2.0]]), torch.tensor([[1, 0]])
    p = [1 / (1 + math.exp(-1)), 1 - 1 / (1 + math.exp(2))]
    wanted = [(1 - each) ** 2 for each in p]
    assert binary_factor(logits, targets, 2.0)[0].tolist() == pytest.approx(wanted)
