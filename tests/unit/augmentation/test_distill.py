"""Distillation against the formulas of Hinton et al. 2015 and Clark et al. 2019."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtlcli.data.batches import Batch
from mtlcli.data.features import TEACHER
from mtlcli.tasks.losses import binary_distance
from tests.unit.augmentation.plain import (
    assert_alike,
    augmented,
    batch_of,
    logits_of,
    losses_of,
)


def taught(task: str) -> tuple[Batch, Tensor]:
    """A batch with the outputs of a teacher."""
    batch = batch_of(task)
    torch.manual_seed(3)
    teacher = 2 * torch.randn(len(batch), 2 if task == "cola" else 1)
    return replace(batch, columns=batch.columns | {TEACHER: teacher}), teacher


@pytest.mark.parametrize("task", ["cola", "stsb"])
@pytest.mark.parametrize("gold", [0.0, 0.3, 1.0])
def test_loss_is_the_formula(task: str, gold: float) -> None:
    model: Any = augmented("distill", teachers=["there"], gold=gold, temperature=2.5)
    model.augmentation.begin_step(3, 10)
    batch, teacher = taught(task)
    logits, _ = logits_of(model, task, batch)
    if task == "cola":
        theirs, mine = (teacher / 2.5).softmax(1), (logits / 2.5).softmax(1)
        apart = 2.5**2 * (theirs * (theirs / mine).log()).sum()
    else:
        apart = ((teacher - logits) ** 2).sum()
    labels = losses_of(task, logits, batch).sum() / batch.denominator
    expected = gold * labels + (1 - gold) * apart / batch.examples
    assert_alike(model, model(task, batch).loss, expected)


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_gradient_is_that_of_mixed_labels(task: str) -> None:
    """BAM takes the loss of the mixture of label and teacher; at every step of the annealing the
    gradient is the same."""
    model: Any = augmented("distill", teachers=["there"])
    batch, teacher = taught(task)
    batch.examples = batch.denominator
    for step, share in ((0, 0.0), (4, 0.5), (8, 1.0)):
        model.augmentation.begin_step(step, 9)
        assert model.augmentation.gold == share
        logits, _ = logits_of(model, task, batch)
        if task == "cola":
            hard = nn.functional.one_hot(batch.columns["label"], 2)
            target = share * hard + (1 - share) * teacher.softmax(1)
            mixed = nn.functional.cross_entropy(logits, target, reduction="sum")
        else:
            target = share * batch.columns["score"].float() + (1 - share) * teacher[:, 0]
            mixed = ((target - logits[:, 0]) ** 2).sum()
        constant = (model(task, batch).loss - mixed / batch.denominator).detach()
        assert_alike(model, model(task, batch).loss, mixed / batch.denominator + constant)


def test_one_step_is_distilled() -> None:
    model: Any = augmented("distill", teachers=["there"])
    model.augmentation.begin_step(0, 1)
    assert model.augmentation.gold == 0


def test_labels_are_compared_one_by_one() -> None:
    torch.manual_seed(1)
    logits, teacher = torch.randn(4, 3), 20 * torch.randn(4, 3)
    mine, theirs = (torch.distributions.Bernoulli(logits=each / 2) for each in (logits, teacher))
    expected = 4 * torch.distributions.kl_divergence(theirs, mine).mean(1).sum()
    torch.testing.assert_close(binary_distance(logits, teacher, 2.0), expected)
    assert binary_distance(teacher, teacher, 2.0) == 0
