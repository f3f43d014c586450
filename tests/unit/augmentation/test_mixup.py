"""Mixup against the formula of Zhang et al. 2018, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mtlcli.tasks.multilabel import MultilabelTask
from mtlcli.tasks.multilabel.task import Multilabel
from tests.unit.augmentation.plain import assert_alike, augmented, batch_of, logits_of, losses_of


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_heads_learn_from_mixtures(task: str) -> None:
    model, batch = augmented("mixup", alpha=0.7), batch_of(task)
    torch.manual_seed(5)
    loss = model(task, batch).loss

    torch.manual_seed(5)
    share = torch.distributions.Beta(0.7, 0.7).sample().item()
    order = torch.randperm(len(batch)).tolist()
    assert order != sorted(order)
    head = model.heads[task]
    _, pooled = logits_of(model, task, batch)
    expected = torch.zeros(())
    for row, partner in enumerate(order):
        mixture = share * pooled[row] + (1 - share) * pooled[partner]
        logits = head.output(head.layers(mixture))  # type: ignore[operator, union-attr]
        if task == "cola":
            labels = [batch.columns["label"][each] for each in (row, partner)]
            log_p = logits.log_softmax(-1)
            expected = expected - share * log_p[labels[0]] - (1 - share) * log_p[labels[1]]
        else:
            scores = [batch.columns["score"][each] for each in (row, partner)]
            expected = expected + (logits[0] - share * scores[0] - (1 - share) * scores[1]) ** 2
    assert_alike(model, loss, expected / batch.denominator)


def test_several_labels_have_the_loss_of_the_mixed_labels() -> None:
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.int8)
    columns = {"labels": labels}
    batch = replace(batch_of("cola", 2), columns=columns)
    task = Multilabel.__new__(Multilabel)
    task.config = MultilabelTask.__new__(MultilabelTask)
    object.__setattr__(task.config, "focal_gamma", 0.0)
    task._factors = {}
    logits, share = torch.randn(2, 3), 0.3
    parts = task.mixed(batch, torch.tensor([1, 0]), share)
    found = sum(part * task.loss({"logits": logits}, each) for part, each in parts)
    soft = share * labels.float() + (1 - share) * labels.float()[[1, 0]]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft) * 2
    torch.testing.assert_close(found, expected)


def test_nothing_is_mixed_outside_training_or_for_other_tasks() -> None:
    model, batch = augmented("mixup", tasks=["stsb"]), batch_of("cola")
    state = torch.get_rng_state()
    logits, _ = logits_of(model, "cola", batch)
    expected = losses_of("cola", logits, batch).sum() / batch.denominator
    torch.testing.assert_close(model("cola", batch).loss, expected)
    scores, batch = batch_of("stsb"), batch_of("stsb")
    logits, _ = logits_of(model.eval(), "stsb", scores)
    expected = losses_of("stsb", logits, batch).sum() / batch.denominator
    torch.testing.assert_close(model("stsb", batch).loss, expected)
    assert torch.equal(state, torch.get_rng_state())
