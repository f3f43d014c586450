"""SMART against algorithm 1 of Jiang et al. 2020."""

from __future__ import annotations

import pytest
import torch

from tests.unit.augmentation.plain import (
    apart,
    assert_alike,
    augmented,
    batch_of,
    logits_of,
    losses_of,
)


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_outputs_are_pulled_to_those_of_moved_embeddings(task: str) -> None:
    options = {"weight": 3.0, "radius": 0.02, "step_size": 0.03, "noise": 0.01, "steps": 2}
    model, batch = augmented("smart", **options), batch_of(task)
    torch.manual_seed(5)
    loss = model(task, batch).loss
    with torch.no_grad():  # As for losses after an update.
        torch.manual_seed(5)
        assert torch.equal(model(task, batch).loss, loss)

    torch.manual_seed(5)
    embedded = model.trunk.backbone.network.get_input_embeddings()(batch.input_ids)
    logits, _ = logits_of(model, task, batch)
    moved = torch.randn(embedded.shape) * 0.01
    for _ in range(2):
        moved.requires_grad_()
        distance = apart(task, logits_of(model, task, batch, embedded + moved)[0], logits.detach())
        (gradient,) = torch.autograd.grad(distance, moved)
        steps = [0.03 * each / each.abs().max() for each in gradient]
        moved = (moved.detach() + torch.stack(steps)).clamp(-0.02, 0.02)
    assert (moved.abs() == 0.02).any() and (moved.abs() < 0.02).any()
    distance = apart(task, logits_of(model, task, batch, embedded + moved)[0], logits)
    assert distance > 0
    plain = losses_of(task, logits, batch).sum()
    assert_alike(model, loss, plain / batch.denominator + 3 * distance / batch.examples)
