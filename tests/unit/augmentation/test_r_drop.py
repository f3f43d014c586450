"""R-Drop against the formula of Liang et al. 2021."""

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
def test_two_passes_are_pulled_together(task: str) -> None:
    model, batch = augmented("r_drop", dropout=0.3, alpha=2.5), batch_of(task)
    torch.manual_seed(5)
    loss = model(task, batch).loss

    torch.manual_seed(5)
    first, second = (logits_of(model, task, batch)[0] for _ in range(2))
    assert not torch.equal(first, second)
    plain = sum(losses_of(task, each, batch).sum() for each in (first, second)) / 2
    distance = 2.5 * apart(task, first, second) / 2
    assert_alike(model, loss, plain / batch.denominator + distance / batch.examples)
