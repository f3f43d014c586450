"""EWC and learning without forgetting against plain loops of their formulas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtlcli.data.batches import Batch, collate
from tests.small import small_data
from tests.unit.augmentation.plain import (
    FORMAT,
    assert_alike,
    augmented,
    batch_of,
    logits_of,
    losses_of,
)

ROWS = 5


class Earlier:
    """stsb was learned before cola; every row is a batch of its own, as in a run."""

    names = ("stsb",)
    new = "cola"

    def __init__(self, model: Any) -> None:
        self._model = model

    def rows(self, task: str, count: int) -> Iterator[Batch]:
        _, _, features, _ = small_data()
        for row in range(count):
            yield collate(
                features[task], np.array([row]), input_format=FORMAT, denominator=1.0, examples=1.0
            )

    def outputs(self, task: str) -> Tensor:
        with torch.no_grad():
            return logits_of(self._model, task, batch_of("cola", 16))[0]


def kept(name: str, **options: Any) -> Any:
    """A model that keeps stsb while it learns cola, after a change of its weights."""
    model: Any = augmented(name, **options)
    model.eval()
    earlier: Any = Earlier(model)
    found = model.augmentation.look(model, earlier)
    model.augmentation.keep(found, earlier, torch.device("cpu"))
    model.train()
    return model


def moved(model: Any) -> dict[str, Tensor]:
    """Change the weights; return those before."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    torch.manual_seed(5)
    with torch.no_grad():
        for each in model.parameters():
            each += 0.05 * torch.randn_like(each)
    return before


def test_ewc_is_the_formula() -> None:
    model = kept("ewc", strength=7.0, rows=ROWS)
    information = {name: torch.zeros_like(each) for name, each in model.named_parameters()}
    for batch in Earlier(model).rows("stsb", ROWS):
        model.zero_grad()
        logits, _ = logits_of(model, "stsb", batch)
        losses_of("stsb", logits, batch).sum().backward()
        for name, each in model.named_parameters():
            if each.grad is not None:
                information[name] += each.grad**2 / ROWS
    assert model.penalty() == 0
    before = moved(model)
    expected = torch.zeros(())
    for name, each in model.named_parameters():
        if name.startswith("trunk."):  # Heads belong to one task, which is not this one.
            for now, then, much in zip(
                each.flatten(), before[name].flatten(), information[name].flatten(), strict=True
            ):
                if much > 1e-9:
                    expected = expected + 7.0 / 2 * much * (now - then) ** 2
    assert expected > 0
    torch.testing.assert_close(model.penalty(), expected, rtol=1e-4, atol=1e-8)
    model.zero_grad()
    model.penalty().backward()
    name = "trunk.backbone.network.embeddings.word_embeddings.weight"
    parameter = dict(model.named_parameters())[name]
    slope = 7.0 * information[name] * (parameter.detach() - before[name])
    torch.testing.assert_close(parameter.grad, slope, rtol=1e-4, atol=1e-8)
    # The loss of a batch is the task's own.
    batch = batch_of("cola")
    logits, _ = logits_of(model, "cola", batch)
    plain = losses_of("cola", logits, batch).sum() / batch.denominator
    torch.testing.assert_close(model("cola", batch).loss, plain)


def test_lwf_is_the_formula() -> None:
    model = kept("lwf", strength=0.4, temperature=2.0)
    batch = batch_of("cola")
    before, _ = logits_of(model, "stsb", batch)
    before = before.detach()
    moved(model)
    logits, _ = logits_of(model, "cola", batch)
    earlier, _ = logits_of(model, "stsb", batch)
    expected = losses_of("cola", logits, batch).sum() / batch.denominator
    for now, then in zip(earlier[:, 0], before[:, 0], strict=True):
        expected = expected + 0.4 * (now - then) ** 2 / batch.examples
    assert_alike(model, model("cola", batch).loss, expected)
    # A batch of an earlier task, as replay brings it, has the plain loss.
    other = batch_of("stsb")
    found, _ = logits_of(model, "stsb", other)
    plain = losses_of("stsb", found, other).sum() / other.denominator
    assert_alike(model, model("stsb", other).loss, plain)
